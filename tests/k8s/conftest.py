"""What kustomize makes of each overlay. These tests need kustomize: `make test-k8s` installs it with Go and runs them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
OVERLAYS: Final = tuple(sorted(folder.name for folder in (ROOT / "deploy" / "k8s" / "overlays").iterdir()))

Manifest = dict[str, Any]


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of an overlay. Raises where kustomize is missing: these tests are not skipped."""
    return build(f"overlays/{request.param}")


def build(folder: str) -> list[Manifest]:
    """Run kustomize on a folder of deploy/k8s."""
    command = [os.environ.get("KUSTOMIZE", "kustomize"), "build", str(ROOT / "deploy" / "k8s" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
