"""That the API server finds what is wrong with manifests: each defect is planted, and seen to be refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.api_server import ApiServer, Manifest, Refused
from tests.k8s.conftest import DEFINITIONS, K8S, built_for
from tests.k8s.test_api_server import apply_all, differences, unsafe_pods, upgrade

Defect = Callable[[Manifest], Any]


@pytest.fixture(scope="module")
def sound(
    api: ApiServer, new_namespace: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Manifest]]:
    """The manifests of production and OpenShift, which are taken, each in a namespace of its own."""
    return {
        name: built_for(new_namespace(), tmp_path_factory.mktemp(name) / "own", resource=K8S / "overlays" / name)
        for name in ("production", "openshift")
    }


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """Return a copy of the first manifest of a kind."""
    return copy.deepcopy(next(m for m in manifests if m["kind"] == kind and name in m["metadata"]["name"]))


def container(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


FOREIGN = (
    *(
        "Kafka",
        "KafkaNodePool",
        "KafkaTopic",
        "KafkaUser",
        "Cluster",
        "ScheduledBackup",
        "ObjectStore",
        "ExternalSecret",
    ),
    *("ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule", "HTTPRoute", "Route"),
)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_misspelt_field_of_a_foreign_kind_is_refused(
    api: ApiServer, sound: dict[str, list[Manifest]], kind: str
) -> None:
    manifest = one([*sound["production"], *sound["openshift"]], kind)
    api.apply(manifest, dry_run=True)
    manifest["spec"]["misspelt"] = True
    with pytest.raises(Refused, match="misspelt"):
        api.apply(manifest, dry_run=True)


def test_no_foreign_kind_is_forgotten(api: ApiServer) -> None:
    assert {definition["spec"]["names"]["kind"] for definition in api.items(DEFINITIONS)} == set(FOREIGN)


@pytest.mark.parametrize(
    ("kind", "defect", "said"),
    [
        ("Deployment", lambda m: container(m).update(readinesProbe={}), "readinesProbe"),
        ("Deployment", lambda m: container(m)["resources"]["limits"].update(memory="512Megs"), "quantities must match"),
        ("Deployment", lambda m: m["spec"]["template"]["metadata"]["labels"].clear(), "selector"),
        ("Deployment", lambda m: container(m)["volumeMounts"][0].update(name="tpm"), "tpm"),
        ("NetworkPolicy", lambda m: m["spec"].update(policyTypes=["Inwards"]), "Inwards"),
        ("KafkaTopic", lambda m: m["spec"].update(partitions="eight"), "partitions"),
        ("KafkaTopic", lambda m: m.update(apiVersion="kafka.strimzi.io/v1beta2"), "CRD is not installed"),
        ("KafkaUser", lambda m: m["spec"]["authorization"]["acls"][0].update(operations=["Reed"]), "Reed"),
        ("Cluster", lambda m: m["spec"].update(instances=0), "instances"),
        ("Kafka", lambda m: m.update(kind="Kafak"), "CRD is not installed"),
    ],
)
def test_what_is_wrong_is_refused(
    api: ApiServer, sound: dict[str, list[Manifest]], kind: str, defect: Defect, said: str
) -> None:
    manifest = one(sound["production"], kind)
    defect(manifest)
    with pytest.raises(Refused, match=said):
        api.apply(manifest, dry_run=True)


@pytest.mark.parametrize(
    "defect",
    [
        lambda m: container(m)["securityContext"].pop("capabilities"),
        lambda m: container(m)["securityContext"].update(allowPrivilegeEscalation=True),
        lambda m: m["spec"]["template"]["spec"]["securityContext"].pop("runAsNonRoot"),
        lambda m: m["spec"]["template"]["spec"]["securityContext"].pop("seccompProfile"),
        lambda m: m["spec"]["template"]["spec"].update(hostNetwork=True),
        lambda m: m["spec"]["template"]["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    ],
)
def test_an_unsafe_pod_is_refused(api: ApiServer, sound: dict[str, list[Manifest]], defect: Defect) -> None:
    account, workload = one(sound["production"], "ServiceAccount"), one(sound["production"], "StatefulSet")
    api.apply(account)
    assert unsafe_pods(api, [workload]) == []
    defect(workload)
    [said] = unsafe_pods(api, [workload])
    assert "PodSecurity" in said
    with pytest.raises(Refused, match="PodSecurity"):  # of a workload it is only a warning, which counts here
        api.apply(workload, dry_run=True)


@pytest.mark.parametrize(
    ("kind", "defect"),
    [
        ("StatefulSet", lambda m: m["spec"].update(serviceName="another")),
        ("Deployment", lambda m: m["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/part-of": "it"})),
    ],
)
def test_a_change_that_an_upgrade_cannot_make_is_refused(
    api: ApiServer, new_namespace: Callable[[], str], sound: dict[str, list[Manifest]], kind: str, defect: Defect
) -> None:
    older = one(sound["production"], kind)
    older["metadata"]["namespace"] = new_namespace()
    newer = copy.deepcopy(older)
    defect(newer)
    newer["spec"]["template"]["metadata"]["labels"].update(newer["spec"]["selector"]["matchLabels"])
    with pytest.raises(Refused, match=r"immutable|Forbidden"):
        upgrade(api, [older], [newer])


def test_a_job_that_has_run_cannot_be_changed(
    api: ApiServer, new_namespace: Callable[[], str], sound: dict[str, list[Manifest]]
) -> None:
    older = one(sound["production"], "Job")
    older["metadata"]["namespace"] = new_namespace()
    newer = copy.deepcopy(older)
    container(newer)["image"] += "-1"
    with pytest.raises(Refused, match="immutable"):
        apply_all(api, [older, newer])
    upgrade(api, [older], [newer])


def test_a_value_that_the_server_writes_otherwise_is_a_difference(
    api: ApiServer, new_namespace: Callable[[], str], sound: dict[str, list[Manifest]]
) -> None:
    manifest = one(sound["production"], "StatefulSet")
    manifest["metadata"]["namespace"] = new_namespace()
    container(manifest)["resources"]["requests"]["cpu"] = "1000m"
    assert list(differences(manifest, api.apply(manifest))) == [
        "/spec/template/spec/containers/0/resources/requests/cpu is '1', not '1000m'"
    ]
