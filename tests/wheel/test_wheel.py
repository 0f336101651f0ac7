"""The distribution: the same bytes on every machine, and enough by itself in an environment that has nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

from docs.licences import LOCK, locked

ROOT: Final = Path(__file__).parents[2]
NEED_EXTRAS: Final = {
    "services.billing.documents",  # tallystick[documents]
    "services.billing.payments.stripe_provider",  # tallystick[stripe]
    "shared.spans",  # tallystick[tracing]
    "tallystick.litellm.plugin",  # runs in LiteLLM
}
"""Modules that may need more than the wheel brings: what imports them says so when it is asked for."""
IMPORT_ALL: Final = """
import importlib, json, pkgutil, sys
failed, files = {}, []
for root in ("tallystick", "shared", "deploy", "services"):
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if not module.name.endswith("__main__"):
            try:
                files.append(importlib.import_module(module.name).__file__)
            except Exception as error:
                failed[module.name] = repr(error)
print(json.dumps({"failed": failed, "files": files}))
"""
CONSUMER: Final = """
from tallystick.client import Client

reveal_type(Client)
Client(no_such_argument=1)
"""


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a command and return what it printed. It sees nothing of the source tree, and of the environment only what it needs."""
    kept = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "LANG", "PIP_INDEX_URL", "PIP_CONFIG_FILE")
        if name in os.environ
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def checkout(directory: Path) -> Path:
    """Copy what git has to another place, without what lies about beside it."""
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes((ROOT / name).read_bytes())
    return directory


def build(source: Path, into: Path, *kinds: str, epoch: int = 1_800_000_000) -> Path:
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), *kinds, str(source))
    run(*command, cwd=into.parent, SOURCE_DATE_EPOCH=str(epoch))
    return into


def hashes(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("one-place"))


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that was built from that."""
    return build(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment into which pip has installed the wheel, in the versions of the lock, and nothing else."""
    directory = tmp_path_factory.mktemp("empty")
    constraints = directory / "constraints.txt"
    constraints.write_text(
        "".join(f"{package.name}=={package.version}\n" for package in locked(LOCK.read_text(encoding="utf-8")))
    )
    run(sys.executable, "-m", "venv", directory / "venv", cwd=directory)
    pip = (directory / "venv" / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", "--constraint", constraints, wheel, cwd=directory)
    run(*pip, "check", cwd=directory)
    return directory / "venv" / "bin"


def test_the_files_are_the_same_wherever_and_from_whatever_they_are_built(
    source: Path, built: Path, tmp_path: Path
) -> None:
    elsewhere = checkout(tmp_path / "a" / "longer" / "path")
    os.utime(elsewhere / "README.md", (1, 1))
    (elsewhere / "shared" / "errors.py").chmod(0o600)
    (tmp_path / "dist").mkdir()
    assert hashes(build(elsewhere, tmp_path / "dist")) == hashes(built)
    (tmp_path / "wheel").mkdir()  # from the tree, not from the source distribution
    [of_the_tree] = hashes(build(source, tmp_path / "wheel", "--wheel")).values()
    assert of_the_tree in hashes(built).values()


def test_another_time_of_the_source_is_seen(source: Path, built: Path, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    assert set(hashes(build(source, tmp_path / "dist", "--wheel", epoch=1_700_000_000)).values()).isdisjoint(
        hashes(built).values()
    )


def test_the_distribution_has_what_runs_and_nothing_that_lies_about(built: Path, wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    tracked = run("git", "ls-files", "services", "shared", "deploy", "tallystick", cwd=ROOT).splitlines()
    ours = {name for name in tracked if (ROOT / name).is_file()}
    sources = {name for name in ours if name.startswith("services/ingest/native/")}  # of a distribution of its own
    assert {name for name in names if ".dist-info/" not in name} == ours - sources
    assert any(name.endswith("licenses/LICENSE") for name in names)
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    assert [
        name for name in inside if re.match(r"(tests|\.venv|\.ci|benchmarks|services/ingest/native/target)/", name)
    ] == []
    assert sources <= inside, "who has the sources can build it"


def test_it_runs_in_an_empty_environment(empty: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"tallystick \d+\.\d+\.\d+\S*\n", run(empty / "tallystick", "--version", cwd=tmp_path))
    assert "asyncapi" in run(empty / "tallystick", "schema", "asyncapi", cwd=tmp_path)
    for command in ("demo", "render", "partitions"):  # these need extras, and explain themselves without
        run(empty / "tallystick", command, "--help", cwd=tmp_path)


def test_every_module_can_be_imported_but_those_that_need_extras(empty: Path, tmp_path: Path) -> None:
    said = json.loads(run(empty / "python", "-I", "-c", IMPORT_ALL, cwd=tmp_path))
    failed = {
        name: why for name, why in said["failed"].items() if not any(name.startswith(prefix) for prefix in NEED_EXTRAS)
    }
    assert failed == {}
    assert {"services.ingest", "services.aggregator", "services.billing", "services.api"}.isdisjoint(said["failed"])
    assert [file for file in said["files"] if not file.startswith(str(empty.parent))] == []


@pytest.mark.parametrize("service", ["ingest", "aggregator", "billing", "api"])
def test_a_service_says_which_settings_it_lacks(service: str, empty: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [empty / "python", "-m", f"services.{service}"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "DATABASE_URL" in done.stdout + done.stderr


def test_it_brings_its_migrations_along(empty: Path, empty_database: str, tmp_path: Path) -> None:
    run(empty / "tallystick", "migrate", cwd=tmp_path, DATABASE_URL=empty_database)
    run(empty / "tallystick", "seed", cwd=tmp_path, DATABASE_URL=empty_database)
    assert "all" in run(empty / "tallystick", "reconcile", cwd=tmp_path, DATABASE_URL=empty_database)


def test_its_types_are_known_to_who_imports_it(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", empty / "python", "consumer.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "py.typed" not in checked.stdout
    assert "tallystick.client" in checked.stdout
    assert 'Unexpected keyword argument "no_such_argument"' in checked.stdout
    assert "Found 1 error" in checked.stdout


def test_the_bill_of_materials_names_all_that_is_installed(empty: Path, tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    command = (Path(sys.executable).with_name("cyclonedx-py"), "environment", "--pyproject", ROOT / "pyproject.toml")
    run(*command, "--mc-type", "application", "--output-file", file, empty / "python", cwd=tmp_path)
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "tallystick"
    named = {component["name"].lower().replace("_", "-") for component in document["components"]}
    frozen = run(empty / "python", "-m", "pip", "--disable-pip-version-check", "list", "--format=json", cwd=tmp_path)
    installed = {package["name"].lower().replace("_", "-") for package in json.loads(frozen)}
    assert installed - {"tallystick"} == named - {"tallystick"}
