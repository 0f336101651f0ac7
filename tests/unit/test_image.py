"""What the image is built from fits the project: every dependency is locked, with hashes, at a version that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
EXTRAS: Final = ("documents", "archive", "stripe")
"""What the image has beside the services: invoices, archives, card payments."""


def locked() -> dict[str, str]:
    """Return the locked version of every package."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", LOCK, re.MULTILINE))


def test_every_dependency_is_locked_at_a_version_that_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += [text for extra in EXTRAS for text in project["project"]["optional-dependencies"][extra]]
    versions = locked()
    for requirement in (Requirement(text) for text in wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in versions, f"{name} is not locked: run `make lock`"
        assert requirement.specifier.contains(versions[name]), f"{name} is locked at {versions[name]}: run `make lock`"


def test_everything_that_is_locked_has_hashes() -> None:
    blocks = re.split(r"^(?=[a-z0-9.-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked())
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_image_gets_every_package_that_the_wheel_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    for package in packages:
        assert f"COPY {package} {package}" in dockerfile
        assert re.search(rf"^!{package}(/|$)", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
