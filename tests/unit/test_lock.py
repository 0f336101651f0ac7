"""What the image installs is locked as pyproject.toml asks for it, and stands under licences that are known and allowed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Final, cast

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs import licences

ROOT: Final = Path(__file__).parents[2]
EXTRAS: Final = ("documents", "archive", "stripe", "tracing")
"""Those that `make lock` names."""
LOCK: Final = licences.LOCK.read_text(encoding="utf-8")
CLIENT_LOCK: Final = licences.CLIENT_LOCK.read_text(encoding="utf-8")
PYPROJECT: Final = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def wanted(pyproject: str) -> list[str]:
    """Return what the image installs by pyproject.toml."""
    described = tomllib.loads(pyproject)
    project = described["project"]
    required = [*described["build-system"]["requires"], *project["dependencies"]]
    return required + [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]


def problems(required: list[str], lock: str) -> Iterator[str]:
    """Yield what the lock file does not answer of what is required, and what of it is not pinned."""
    packages = {canonicalize_name(package.name): package for package in licences.locked(lock)}
    for requirement in map(Requirement, required):
        package = packages.get(canonicalize_name(requirement.name))
        if package is None:
            yield f"{requirement} is not locked: run `make lock`"
        elif package.version not in requirement.specifier:
            yield f"{package.name} {package.version} is locked, and pyproject.toml asks for {requirement}: run `make lock`"
    yield from (f"{package.name} has no hash" for package in packages.values() if not package.hashes)
    if len(packages) != len(re.findall(r"^[^\s#]", lock, re.MULTILINE)):
        yield "there is a line in the lock that is not understood"


def test_the_lock_is_what_pyproject_asks_for() -> None:
    assert list(problems(wanted(PYPROJECT), LOCK)) == []


def test_the_lock_of_the_client_is_what_pyproject_asks_for() -> None:
    assert list(problems(tomllib.loads(PYPROJECT)["dependency-groups"]["postgres-client"], CLIENT_LOCK)) == []


def test_what_both_locks_name_is_the_same() -> None:
    one, other = ({p.name: p.version for p in licences.locked(lock)} for lock in (LOCK, CLIENT_LOCK))
    assert {name: one[name] for name in one.keys() & other.keys()} == {n: other[n] for n in one.keys() & other.keys()}


def test_make_lock_names_these_extras() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("\nlock:")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"--extra (\w+)", recipe)) == EXTRAS


@pytest.mark.parametrize(
    ("what", "instead", "problem"),
    [
        ('"structlog>=25.5"', '"structlog>=99"', "asks for structlog>=99"),
        ('"structlog>=25.5"', '"structlog>=25.5", "left-pad>=1"', "left-pad>=1 is not locked"),
        ('"pyarrow>=20"', '"pyarrow>=20", "polars"', "polars is not locked"),
    ],
)
def test_a_dependency_that_is_not_in_the_lock_is_found(what: str, instead: str, problem: str) -> None:
    assert what in PYPROJECT
    [found] = problems(wanted(PYPROJECT.replace(what, instead)), LOCK)
    assert problem in found


def test_a_package_without_a_hash_is_found() -> None:
    assert list(problems(wanted(PYPROJECT), LOCK + "left-pad==1.0 \\\n    # via nobody\n")) == ["left-pad has no hash"]


def test_every_package_of_the_lock_is_on_the_page_of_licences() -> None:
    listed = licences.listed(licences.PAGE.read_text(encoding="utf-8"))
    assert {name: locked for name, (locked, _) in listed.items()} == {
        package.name: str(package.version) for package in licences.all_locked()
    }, "run `make lock`"


def test_every_licence_is_known_and_allowed() -> None:
    listed = licences.listed(licences.PAGE.read_text(encoding="utf-8"))
    assert {name: licence for name, (_, licence) in listed.items() if not licences.is_allowed(licence)} == {}


def test_the_page_says_what_the_packages_say() -> None:
    compared = 0
    for name, (locked, licence) in licences.listed(licences.PAGE.read_text(encoding="utf-8")).items():
        try:
            if version(name) != locked:
                continue  # a newer one is installed here, which may say it in other words
        except PackageNotFoundError:
            continue
        assert licences.licence_of(metadata(name)) == licence, name
        compared += 1
    assert compared


@pytest.mark.parametrize(
    ("stated", "licence", "allowed"),
    [
        ({"License-Expression": "Apache-2.0 OR BSD-2-Clause"}, "Apache-2.0 OR BSD-2-Clause", True),
        ({"License-Expression": "Apache-2.0 AND AGPL-3.0-only"}, "Apache-2.0 AND AGPL-3.0-only", False),
        ({"License-Expression": "GPL-3.0-only OR MIT"}, "GPL-3.0-only OR MIT", True),
        ({"License": "Long words of a licence", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT", True),
        ({"License": "SSPL"}, "SSPL", False),
        ({}, "", False),
    ],
)
def test_a_licence_that_is_unknown_or_not_allowed_is_found(stated: dict[str, str], licence: str, allowed: bool) -> None:
    message = Message()
    for name, value in stated.items():
        message[name] = value
    # What importlib.metadata returns is such a message.
    assert licences.licence_of(cast(PackageMetadata, message)) == licence
    assert licences.is_allowed(licence) is allowed
