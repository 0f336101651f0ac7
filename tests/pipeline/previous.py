"""The version before: the code as it was before the newest migration, from the history of this checkout."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.migrate import read_migrations

ROOT: Final = Path(__file__).parents[2]
CODE: Final = ("services", "shared", "deploy", "tallystick")
HEAD: Final = "HEAD"


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 0, f"git {arguments[0]}: {done.stderr.decode()} (this test needs the whole history)"
    return done.stdout


def commit_before_newest_migration() -> str:
    """The parent of the commit that brought the newest migration; HEAD while that is not committed yet."""
    newest = f"deploy/migrations/{read_migrations()[-1].file}"
    brought = git("log", "--diff-filter=A", "--format=%H", "--", newest).decode().split()
    return f"{brought[-1]}^" if brought else HEAD


def unpack(commit: str, directory: Path) -> None:
    """Write the code of a commit into a directory."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", commit, *CODE))) as code:
        code.extractall(directory, filter="data")


def variables(directory: Path) -> Mapping[str, str]:
    """What lets a process of this environment run the code in `directory`, wherever it is started."""
    return {"PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}
