"""What a real API server of Kubernetes says to our manifests: each is applied by server-side apply, with strict validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.k8s.api_server import ApiServer, Manifest, Refused
from tests.k8s.conftest import COMPONENTS, K8S, OVERLAYS, built_for
from tests.k8s.earlier import NEEDED, earlier_versions
from tests.k8s.test_policies import pods

EARLIER_VERSIONS: Final = 2
"""From so many versions of the manifests a cluster is upgraded."""
REVISION: Final = "deployment.kubernetes.io/revision"
"""An annotation by the deployment controller."""


def apply_all(api: ApiServer, manifests: list[Manifest]) -> list[Manifest]:
    """Apply manifests in kustomize's order and return what the server made of them."""
    return [api.apply(manifest) for manifest in manifests]


def differences(wanted: Any, found: Any, place: str = "") -> Iterator[str]:
    """Yield where the server has something else than what a manifest says, which tools such as Argo CD would show for ever."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            if key not in found:
                yield f"{place}/{key} is gone"
            else:
                yield from differences(value, found[key], f"{place}/{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (value, other) in enumerate(zip(wanted, found, strict=True)):
            yield from differences(value, other, f"{place}/{number}")
    elif wanted != found:
        yield f"{place} is {found!r}, not {wanted!r}"


def settled(thing: Manifest) -> Manifest:
    """Return an object without what controllers write to it meanwhile: who applied what, and when, is still in it."""
    metadata = {key: value for key, value in thing["metadata"].items() if key != "resourceVersion"}
    metadata["managedFields"] = [entry for entry in metadata["managedFields"] if entry["operation"] == "Apply"]
    metadata["annotations"] = {k: v for k, v in metadata.get("annotations", {}).items() if k != REVISION}
    return {**{key: value for key, value in thing.items() if key != "status"}, "metadata": metadata}


def unsafe_pods(api: ApiServer, manifests: list[Manifest]) -> list[str]:
    """What the Pod Security Standard of the namespace says against the pods of our workloads."""
    wrong = []
    for name, template in pods(manifests):
        namespace = manifests[0]["metadata"]["namespace"]
        metadata = {**template["metadata"], "name": "one", "namespace": namespace}
        try:
            api.create({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}, dry_run=True)
        except Refused as refused:
            wrong.append(f"{name}: {refused}")
    return wrong


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_taken_and_applied_again_changes_nothing(
    api: ApiServer, new_namespace: Callable[[], str], tmp_path: Path, name: str
) -> None:
    manifests = built_for(new_namespace(), tmp_path / "own", resource=K8S / "overlays" / name)
    first = apply_all(api, manifests)
    assert unsafe_pods(api, manifests) == []
    for manifest, made in zip(manifests, first, strict=True):
        assert list(differences(manifest, made)) == [], manifest["kind"]
        assert settled(api.apply(manifest)) == settled(made)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_is_taken_without_the_others(
    api: ApiServer, new_namespace: Callable[[], str], tmp_path: Path, name: str
) -> None:
    own = tmp_path / "own"
    component = os.path.relpath(K8S / "components" / name, own)
    apply_all(api, built_for(new_namespace(), own, resource=K8S / "base", components=[component]))


def test_every_component_is_in_an_overlay() -> None:
    text = "".join((K8S / "overlays" / name / "kustomization.yaml").read_text() for name in OVERLAYS)
    assert [name for name in COMPONENTS if f"components/{name}" not in text] == []


def upgrade(api: ApiServer, older: list[Manifest], newer: list[Manifest]) -> None:
    """Upgrade as docs/how-to/kubernetes.md says: the finished Job goes, what is new is applied over what is there."""
    apply_all(api, older)
    for manifest in older:
        if manifest["kind"] == "Job":
            api.delete(api.path_of(manifest), propagationPolicy="Background")
    apply_all(api, newer)


@pytest.mark.parametrize("name", OVERLAYS)
def test_earlier_versions_are_upgraded(
    api: ApiServer, new_namespace: Callable[[], str], tmp_path: Path, name: str
) -> None:
    upgraded = []
    for commit, there in earlier_versions(tmp_path):
        if not (there / "overlays" / name).exists():
            continue
        namespace = new_namespace()
        older = built_for(namespace, tmp_path / f"{commit}-older", resource=there / "overlays" / name)
        newer = built_for(namespace, tmp_path / f"{commit}-newer", resource=K8S / "overlays" / name)
        upgrade(api, older, newer)
        upgraded.append(commit)
        if len(upgraded) == EARLIER_VERSIONS:
            break
    assert upgraded, NEEDED
