"""What kustomize makes of each overlay, and an API server to give it to. `make test-k8s` builds both with Go, as one program."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.k8s.api_server import ApiServer, Manifest
from tests.k8s.control_plane import control_plane
from tests.k8s.crds import definitions

ROOT: Final = Path(__file__).parents[2]
K8S: Final = ROOT / "deploy" / "k8s"
OVERLAYS: Final = tuple(sorted(folder.name for folder in (K8S / "overlays").iterdir()))
COMPONENTS: Final = tuple(sorted(folder.name for folder in (K8S / "components").iterdir()))
DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of an overlay."""
    return build(K8S / "overlays" / str(request.param))


def program() -> Path:
    """Return the program of `controlplane/`. Fails where it is missing: these tests are not skipped."""
    found = os.environ.get("CONTROL_PLANE")
    if not found:
        pytest.fail("there is no API server: run these tests by `make test-k8s`, which builds it (with Go)")
    return Path(found)


@functools.cache
def build(folder: Path) -> list[Manifest]:
    """Run the kustomize that is in kubectl on a folder. Who changes what it returns copies it first."""
    command = [str(program()), "kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if manifest]


def built_for(namespace: str, folder: Path, *, resource: Path, **more: Any) -> list[Manifest]:
    """Build an overlay of one's own in an empty `folder`, as docs/how-to/kubernetes.md shows it: upon `resource`, in a namespace."""
    folder.mkdir(parents=True)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [os.path.relpath(resource, folder)],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return build(folder)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A running API server that knows all foreign kinds."""
    with control_plane(program(), tmp_path_factory.mktemp("control-plane")) as server:
        made = [server.post(DEFINITIONS, body) for body in definitions(tmp_path_factory.mktemp("definitions"))]
        for definition in made:
            server.wait(DEFINITIONS, definition["metadata"]["name"], _is_established, seconds=30)
        yield server


def _is_established(definition: Manifest) -> bool:
    conditions = {c["type"]: c["status"] for c in definition.get("status", {}).get("conditions", [])}
    return conditions.get("Established") == "True"


@pytest.fixture(scope="session")
def new_namespace(api: ApiServer) -> Callable[[], str]:
    """Makes a namespace that enforces the Pod Security Standard *restricted*, as the how-to says, and returns its name."""
    numbers = itertools.count(1)

    def make() -> str:
        name = f"tallystick-{next(numbers)}"
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        return name

    return make
