"""A rollout, seen to its end: Kubernetes' own controllers make the pods, a simulated node says that they are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.api_server import ApiServer, Manifest
from tests.k8s.conftest import K8S, built_for
from tests.k8s.earlier import NEEDED, earlier_versions
from tests.k8s.simulated_node import NODE, SimulatedNode
from tests.k8s.test_api_server import apply_all, upgrade

WITHIN_SECONDS = 60.0
NOT_WITHIN_SECONDS = 2.0
"""So long is waited for what must not happen."""
SCALED = {"tallystick-ingest": 3, "tallystick-aggregator": 2, "tallystick-billing": 2, "tallystick-api": 3}


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace whose pods a simulated node runs."""

    api: ApiServer
    name: str

    def collection(self, manifest: Manifest) -> str:
        return self.api.path_of(manifest).rpartition("/")[0]

    def wait(self, manifest: Manifest, until: Callable[[Manifest], bool]) -> Manifest:
        return self.api.wait(self.collection(manifest), manifest["metadata"]["name"], until, seconds=WITHIN_SECONDS)

    def changes(self, manifest: Manifest, *, seconds: float) -> Iterator[Manifest]:
        """Yield the object as it is, and after each change."""
        only = f"metadata.name={manifest['metadata']['name']}"
        for event in self.api.watch(self.collection(manifest), seconds=seconds, fieldSelector=only):
            yield event["object"]

    def wait_for_rollout(self, manifests: list[Manifest]) -> None:
        for manifest in manifests:
            if manifest["kind"] == "Job":
                self.wait(manifest, lambda job: job.get("status", {}).get("succeeded") == 1)
            elif manifest["kind"] in {"Deployment", "StatefulSet"}:
                self.wait(manifest, is_rolled_out)

    def scale(self, manifest: Manifest, replicas: int) -> None:
        """Scale as KEDA and the autoscaler do: not by the manifest, but beside it."""
        self.api.scale(self.api.path_of(manifest), replicas)


def is_rolled_out(workload: Manifest) -> bool:
    """As `kubectl rollout status` judges."""
    status, replicas = workload.get("status", {}), workload["spec"]["replicas"]
    return bool(
        status.get("observedGeneration") == workload["metadata"]["generation"]
        and all(status.get(which, 0) == replicas for which in ("replicas", "updatedReplicas", "availableReplicas"))
        and status.get("currentRevision") == status.get("updateRevision")
    )


def unreached(namespace: Namespace, manifests: list[Manifest], *, seconds: float = WITHIN_SECONDS) -> list[str]:
    """Ports of services behind which no ready pod is, or that no pod has, after so many seconds at most."""
    services = [m for m in manifests if m["kind"] == "Service"]
    missing = {(m["metadata"]["name"], port["name"]) for m in services for port in m["spec"]["ports"]}
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace.name}/endpointslices"
    for event in namespace.api.watch(slices, seconds=seconds):
        found = event["object"]
        if any(endpoint["conditions"]["ready"] for endpoint in found["endpoints"] or ()):
            service = found["metadata"]["labels"]["kubernetes.io/service-name"]
            missing -= {(service, port["name"]) for port in found["ports"] or ()}
        if not missing:
            break
    return sorted(f"{service}: no pod answers at {port}" for service, port in missing)


def useless_budgets(namespace: Namespace, manifests: list[Manifest], *, seconds: float = WITHIN_SECONDS) -> list[str]:
    """Disruption budgets that cover other pods than they should, or would let no node be drained, after so many seconds."""
    wrong = []
    for manifest in manifests:
        if manifest["kind"] != "PodDisruptionBudget":
            continue
        name = manifest["metadata"]["name"]
        useful = f"covers {SCALED[name]} pods, lets 1 be evicted"
        last = ""
        for budget in namespace.changes(manifest, seconds=seconds):
            last = _told(budget)
            if last == useful:
                break
        else:
            wrong.append(f"{name}: {last}")
    return wrong


def _told(budget: Manifest) -> str:
    status = budget.get("status", {})
    return f"covers {status.get('expectedPods')} pods, lets {status.get('disruptionsAllowed')} be evicted"


@pytest.fixture
def namespace(api: ApiServer, new_namespace: Callable[[], str]) -> Namespace:
    name = new_namespace()
    api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    SimulatedNode(api, name).start()
    return Namespace(api, name)


def test_an_upgrade_is_rolled_out_and_undoes_no_scaling(namespace: Namespace, tmp_path: Path) -> None:
    commit, there = next(earlier_versions(tmp_path), ("", tmp_path))
    assert commit, NEEDED
    older = built_for(namespace.name, tmp_path / commit / "own", resource=there / "overlays" / "production")
    newer = built_for(
        namespace.name,
        tmp_path / "own",
        resource=K8S / "overlays" / "production",
        images=[{"name": "registry.example/tallystick", "newTag": "9.9.9"}],
    )
    apply_all(namespace.api, older)
    namespace.wait_for_rollout(older)
    workloads = [m for m in newer if m["metadata"]["name"] in SCALED and m["kind"] in {"Deployment", "StatefulSet"}]
    for workload in workloads:
        namespace.scale(workload, SCALED[workload["metadata"]["name"]])
    namespace.wait_for_rollout(older)

    upgrade(namespace.api, older, newer)
    namespace.wait_for_rollout(newer)

    pods = namespace.api.items(f"/api/v1/namespaces/{namespace.name}/pods")
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
    assert {pod["spec"]["containers"][0]["image"] for pod in running} == {"registry.example/tallystick:9.9.9"}
    by_component = [pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in running]
    assert {f"tallystick-{name}": by_component.count(name) for name in set(by_component)} == SCALED
    assert unreached(namespace, newer) == []
    assert useless_budgets(namespace, newer) == []


@pytest.mark.parametrize(
    ("kind", "defect", "said"),
    [
        (
            "Service",
            lambda m: m["spec"]["ports"][0].update(targetPort="htpp"),
            "tallystick-api: no pod answers at http",
        ),
        ("Service", lambda m: m["spec"]["selector"].update(tier="api"), "tallystick-api: no pod answers at http"),
        (
            "PodDisruptionBudget",
            lambda m: m["spec"]["selector"]["matchLabels"].update(tier="api"),
            "tallystick-api: covers 0 pods, lets 0 be evicted",
        ),
        (
            "PodDisruptionBudget",
            lambda m: m["spec"].update(maxUnavailable=0),
            "tallystick-api: covers 3 pods, lets 0 be evicted",
        ),
    ],
)
def test_what_points_nowhere_is_found(
    namespace: Namespace, tmp_path: Path, kind: str, defect: Callable[[Manifest], Any], said: str
) -> None:
    manifests = built_for(namespace.name, tmp_path / "own", resource=K8S / "overlays" / "production")
    mine = [m for m in manifests if m["metadata"]["name"] in {"tallystick", "tallystick-api"}]
    mine = [m for m in mine if m["kind"] in {"ServiceAccount", "Deployment", "Service", "PodDisruptionBudget"}]
    defect(next(m for m in mine if m["kind"] == kind))
    apply_all(namespace.api, mine)
    workload = next(m for m in mine if m["kind"] == "Deployment")
    namespace.scale(workload, SCALED["tallystick-api"])
    namespace.wait_for_rollout(mine)
    found = unreached(namespace, mine, seconds=NOT_WITHIN_SECONDS)
    assert [*found, *useless_budgets(namespace, mine, seconds=NOT_WITHIN_SECONDS)] == [said]
