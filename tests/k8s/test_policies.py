"""What our manifests must never lack, whatever the overlay: each rule is a rule of ours, told by what it finds."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import yaml

from docs.generate import settings_page
from services.ingest.app import GROUP as INGEST_GROUP
from shared.kafka import topic_plan
from tests.k8s.api_server import Manifest
from tests.k8s.conftest import K8S, ROOT, build

WORKLOADS: Final = ("Deployment", "StatefulSet", "Job", "CronJob")
ENDS: Final = ("Job ", "CronJob ")
"""What begins so is done at some time, and cannot be asked how it is."""
CONSOLE: Final = "Deployment tallystick-console"
"""Waits for commands that somebody types: it has nothing to probe and nothing to finish."""
MADE_BY_OPERATORS: Final = {"tallystick-cluster-ca-cert"}
"""Secrets that Strimzi makes for the cluster; those of its users are named like them."""


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pod template of every workload, with its name."""
    for manifest in manifests:
        if manifest["kind"] in WORKLOADS:
            spec = manifest["spec"]["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else manifest["spec"]
            yield f"{manifest['kind']} {manifest['metadata']['name']}", spec["template"]


def unsafe_pods(manifests: list[Manifest]) -> list[str]:
    """Pods that may do more than they need."""
    wrong = []
    for name, template in pods(manifests):
        spec = template["spec"]
        of_pod = spec.get("securityContext", {})
        if not of_pod.get("runAsNonRoot") or of_pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            wrong.append(f"{name}: runs as root, or without seccomp")
        if "runAsUser" in of_pod:
            wrong.append(f"{name}: fixes its user, which OpenShift chooses")
        if spec.get("automountServiceAccountToken") is not False:
            wrong.append(f"{name}: has a token for Kubernetes")
        for container in spec["containers"]:
            context = container.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities") != {"drop": ["ALL"]}:
                wrong.append(f"{name}: keeps capabilities")
            if context.get("readOnlyRootFilesystem") is not True:
                wrong.append(f"{name}: may write to its image")
    return wrong


def careless_pods(manifests: list[Manifest]) -> list[str]:
    """Pods that the cluster cannot place or judge."""
    wrong = []
    for name, template in pods(manifests):
        for container in template["spec"]["containers"]:
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get(
                "limits", {}
            ):
                wrong.append(f"{name}: asks for no resources")
            if name == CONSOLE:
                continue
            probes = {"startupProbe", "livenessProbe", "readinessProbe"} - container.keys()
            if probes and not name.startswith(ENDS):
                wrong.append(f"{name}: lacks {', '.join(sorted(probes))}")
        if (
            name != CONSOLE
            and not name.startswith(ENDS)
            and template["spec"].get("terminationGracePeriodSeconds", 30) <= 15 + 10 + 10
        ):
            wrong.append(f"{name}: is killed before it has finished its batch")
    return wrong


def open_ports(manifests: list[Manifest]) -> list[str]:
    """Ports of containers that no network policy names, so that nothing could reach them."""
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    wrong = []
    for name, template in pods(manifests):
        labels = template["metadata"]["labels"]
        mine = [p for p in policies if p["podSelector"].get("matchLabels", {}).items() <= labels.items()]
        if not any(
            set(p["policyTypes"]) == {"Ingress", "Egress"} and not p.get("ingress") and not p.get("egress")
            for p in mine
        ):
            wrong.append(f"{name}: nothing is denied to it by default")
        let_in = {port["port"] for p in mine for rule in p.get("ingress", []) for port in rule["ports"]}
        for container in template["spec"]["containers"]:
            wrong += [
                f"{name}: port {p['containerPort']} is in no policy"
                for p in container.get("ports", [])
                if p["containerPort"] not in let_in
            ]
    return wrong


def unknown_variables(manifests: list[Manifest]) -> list[str]:
    """Environment variables that no service reads."""
    known = set(re.findall(r"`((?:TALLYSTICK_\w+|DATABASE_URL|KAFKA_BOOTSTRAP_SERVERS))`", settings_page()))
    maps = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    read = [
        f["configMapRef"]["name"]
        for _, t in pods(manifests)
        for c in t["spec"]["containers"]
        for f in c["envFrom"]
        if "configMapRef" in f
    ]
    given = {key for name in read for key in maps[name]}
    given |= {e["name"] for _, t in pods(manifests) for c in t["spec"]["containers"] for e in c.get("env", [])}
    return sorted(given - known)


def missing_secrets(manifests: list[Manifest]) -> list[str]:
    """Secrets that a pod reads and nobody makes."""
    made = set(MADE_BY_OPERATORS)
    made |= {m["spec"]["target"]["name"] for m in manifests if m["kind"] == "ExternalSecret"}
    made |= {m["metadata"]["name"] for m in manifests if m["kind"] == "KafkaUser"}
    wanted: set[str] = set()
    for _, template in pods(manifests):
        for container in template["spec"]["containers"]:
            references = [
                e["valueFrom"]["secretKeyRef"]
                for e in container.get("env", [])
                if "secretKeyRef" in e.get("valueFrom", {})
            ]
            wanted |= {reference["name"] for reference in references if not reference.get("optional")}
        wanted |= {v["secret"]["secretName"] for v in template["spec"].get("volumes", []) if "secret" in v}
    for manifest in manifests:
        wanted |= set(re.findall(r"'passwordSecret': \{'name': '([^']+)'", str(manifest)))
        if manifest["kind"] == "TriggerAuthentication":
            wanted |= {reference["name"] for reference in manifest["spec"]["secretTargetRef"]}
    return sorted(wanted - made)


def missing_volumes(manifests: list[Manifest]) -> list[str]:
    """Volumes that a pod claims and nobody asks for."""
    made = {m["metadata"]["name"] for m in manifests if m["kind"] == "PersistentVolumeClaim"}
    volumes = [volume for _, template in pods(manifests) for volume in template["spec"].get("volumes", [])]
    return sorted({v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v} - made)


RULES: Final = (unsafe_pods, careless_pods, open_ports, unknown_variables, missing_volumes)


@pytest.mark.parametrize("rule", RULES)
def test_every_overlay_keeps_the_rule(rule: Callable[[list[Manifest]], list[str]], overlay: list[Manifest]) -> None:
    assert rule(overlay) == []


@pytest.mark.parametrize("name", ["production", "openshift"])
def test_every_secret_is_made_by_somebody(name: str) -> None:
    assert missing_secrets(build(K8S / "overlays" / name)) == []


def _without(path: str) -> Callable[[dict[str, Any]], None]:
    def remove(spec: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = spec
        for step in way:
            place = place[int(step)] if step.isdigit() else place[step]
        del place[last]

    return remove


@pytest.mark.parametrize(
    ("rule", "defect"),
    [
        (unsafe_pods, _without("securityContext.runAsNonRoot")),
        (unsafe_pods, _without("automountServiceAccountToken")),
        (unsafe_pods, _without("containers.0.securityContext.readOnlyRootFilesystem")),
        (unsafe_pods, _without("containers.0.securityContext.capabilities")),
        (careless_pods, _without("containers.0.livenessProbe")),
        (careless_pods, _without("containers.0.resources")),
        (careless_pods, _without("terminationGracePeriodSeconds")),
        (open_ports, lambda spec: spec["containers"][0]["ports"].append({"containerPort": 6666})),
        (missing_volumes, lambda spec: spec["volumes"].append({"name": "x", "persistentVolumeClaim": {"claimName": "nobody"}})),
        (unknown_variables, lambda spec: spec["containers"][0]["env"].append({"name": "TALLYSTICK_TYPO", "value": "1"})),
        (
            missing_secrets,
            lambda spec: spec["containers"][0]["env"].append({"name": "X", "valueFrom": {"secretKeyRef": {"name": "nobody", "key": "x"}}}),
        ),
    ],
)  # fmt: skip
def test_a_planted_defect_is_found(
    rule: Callable[[list[Manifest]], list[str]], defect: Callable[[dict[str, Any]], None]
) -> None:
    manifests = copy.deepcopy(build(K8S / "overlays" / "production"))
    sound = rule(manifests)
    defect(next(template["spec"] for name, template in pods(manifests) if "ingest" in name))
    assert len(rule(manifests)) > len(sound)


def test_backups_have_a_volume_which_the_console_sees_and_openshift_gives_the_group() -> None:
    for name, group in (("production", {"fsGroup": 10001}), ("openshift", {})):
        templates = dict(pods(build(K8S / "overlays" / name)))
        claiming = {what for what, t in templates.items() if "persistentVolumeClaim" in str(t["spec"]["volumes"])}
        assert claiming == {"CronJob tallystick-backup", CONSOLE}
        context = templates["CronJob tallystick-backup"]["spec"]["securityContext"]
        assert {key: value for key, value in context.items() if key == "fsGroup"} == group


def test_the_topics_are_those_of_the_contracts() -> None:
    topics = {
        m["metadata"]["name"]: m["spec"] for m in build(K8S / "overlays" / "production") if m["kind"] == "KafkaTopic"
    }
    assert {name: spec["partitions"] for name, spec in topics.items()} == topic_plan(8)


def test_autoscaling_asks_the_brokers_of_this_namespace() -> None:
    manifests = build(K8S / "overlays" / "production")
    [settings] = [m for m in manifests if m["metadata"]["name"] == "tallystick-settings"]
    host, port = settings["data"]["KAFKA_BOOTSTRAP_SERVERS"].split(":")
    asked = {
        trigger["metadata"]["bootstrapServers"]
        for m in manifests
        if m["kind"] == "ScaledObject"
        for trigger in m["spec"]["triggers"]
    }
    assert asked == {f"{host}.{settings['metadata']['namespace']}.svc:{port}"}


def test_workers_scale_by_the_lag_of_their_own_group() -> None:
    scaled = {
        m["metadata"]["name"]: m["spec"] for m in build(K8S / "overlays" / "production") if m["kind"] == "ScaledObject"
    }
    assert scaled["tallystick-ingest"]["triggers"][0]["metadata"]["consumerGroup"] == INGEST_GROUP
    for name, spec in scaled.items():
        [trigger] = spec["triggers"]
        assert trigger["metadata"]["consumerGroup"] == name
        assert spec["maxReplicaCount"] <= topic_plan(8)[trigger["metadata"]["topic"]]
        assert spec["minReplicaCount"] >= 1


def test_the_alert_rules_are_those_that_are_tested() -> None:
    [rule] = [m for m in build(K8S / "overlays" / "production") if m["kind"] == "PrometheusRule"]
    tested = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert rule["spec"]["groups"] == tested["groups"]
