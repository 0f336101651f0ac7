"""The how-to is walked as it is written: its commands, by a real kubectl, on a cluster whose node is simulated."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documentation import ROOT, Block, blocks_of, script_of
from tests.k8s.api_server import ApiServer
from tests.k8s.conftest import K8S, program
from tests.k8s.simulated_node import NODE, SimulatedNode

PAGE = ROOT / "docs" / "how-to" / "kubernetes.md"
WITHIN_SECONDS = 120.0


def section(name: str) -> list[Block]:
    """Return the code blocks of one section of the page."""
    _, found, rest = PAGE.read_text().partition(f"\n## {name}\n")
    assert found, f"{PAGE} has no section {name}"
    return blocks_of(rest.partition("\n## ")[0])


class Complaint(Exception):
    """What a reader is told on the error stream."""


class Reader:
    """Somebody who has a checkout and kubectl, and types what the page says."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(K8S, folder / "deploy" / "k8s")
        (folder / "bin").mkdir()
        kubectl = folder / "bin" / "kubectl"
        kubectl.write_text(f'#!/bin/sh\nexec {program()} kubectl "$@"\n')
        kubectl.chmod(0o755)
        (folder / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig(api)))

    def write(self, block: Block, more: str = "") -> None:
        """Write a block whose first line names its file, and more after it."""
        place = self._folder / block.body.partition("\n")[0].removeprefix("# ")
        place.parent.mkdir(parents=True)
        place.write_text(block.body + more)

    def type(self, block: Block) -> str:
        """Run the commands of a block and return what they print. Raises `Complaint` with the first that fails, and for warnings."""
        environment = {**os.environ, "KUBECONFIG": str(self._folder / "kubeconfig"), "NS": "tallystick"}
        environment["PATH"] = f"{self._folder / 'bin'}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            ["/bin/bash", "-ec", script_of(block)],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_SECONDS,
            check=False,
        )
        if done.returncode != 0 or done.stderr:
            raise Complaint(done.stderr)
        return done.stdout


def _kubeconfig(api: ApiServer) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "here", "cluster": {"server": api.address, "certificate-authority": str(api.certificate)}}
        ],
        "users": [{"name": "tests", "user": {"token": api.token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "tests"}}],
        "current-context": "here",
    }


@pytest.fixture
def reader(api: ApiServer, tmp_path: Path) -> Reader:
    """Somebody who has prepared the namespace."""
    api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    found = Reader(api, tmp_path)
    if not any(namespace["metadata"]["name"] == "tallystick" for namespace in api.items("/api/v1/namespaces")):
        found.type(section("4. Apply")[0])
    return found


def test_the_page_installs_and_upgrades(api: ApiServer, reader: Reader) -> None:
    [mine] = section("2. Make it yours")
    reader.write(mine)
    _, try_out, install = section("4. Apply")
    tried = reader.type(try_out).splitlines()
    assert [line for line in tried if not line.endswith("serverside-applied (server dry run)")] == []
    assert api.items("/apis/apps/v1/namespaces/tallystick/deployments") == []
    SimulatedNode(api, "tallystick").start()
    assert "job.batch/tallystick-migrate condition met" in reader.type(install)
    start, _, end = section("5. Commands")
    reader.type(start)
    reader.type(end)
    [again] = section("Upgrade")
    assert 'job.batch "tallystick-migrate" deleted' in reader.type(again)


@pytest.mark.parametrize(
    ("kind", "operation", "said"),
    [
        ("Deployment", "{op: add, path: /spec/replcas, value: 2}", "replcas"),
        ("Deployment", "{op: add, path: /spec/template/spec/hostNetwork, value: true}", "would violate PodSecurity"),
        ("HTTPRoute", "{op: replace, path: /apiVersion, value: gateway.networking.k8s.io/v9}", "no matches for kind"),
    ],
)
def test_the_dry_run_tells_what_is_wrong(reader: Reader, kind: str, operation: str, said: str) -> None:
    [mine] = section("2. Make it yours")
    reader.write(mine, f"  - target: {{kind: {kind}, name: tallystick-api}}\n    patch: |-\n      - {operation}\n")
    _, try_out, _ = section("4. Apply")
    with pytest.raises(Complaint, match=said):
        reader.type(try_out)


def test_the_cluster_of_a_moment_is_made_of_the_archive(api: ApiServer, reader: Reader) -> None:
    [block] = section("Back to a moment")
    restored = yaml.safe_load(block.body)
    api.apply(restored, dry_run=True)
    archived, store, _ = yaml.safe_load_all((K8S / "components" / "cloudnative-pg" / "cluster.yaml").read_text())
    [source] = restored["spec"]["externalClusters"]
    assert source["plugin"]["parameters"] == {
        "barmanObjectName": store["metadata"]["name"],
        "serverName": archived["metadata"]["name"],
    }
    alike = ("instances", "imageName", "storage", "walStorage")
    assert [restored["spec"][key] for key in alike] == [archived["spec"][key] for key in alike]
