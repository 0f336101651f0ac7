"""Where a run took place: the commit and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

COMMIT_FILE = "COMMIT"
"""In an unpacked archive, which has no history: a file that names its commit."""
_ROOT = Path(__file__).resolve().parents[3]


def commit_here() -> str:
    """Return the commit of this checkout, marked if files were changed since; "unknown" outside of one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)  # noqa: S607
        return done.stdout.strip()

    named = _ROOT / COMMIT_FILE
    if named.is_file():
        return named.read_text(encoding="ascii").strip()
    found = git("rev-parse", "--short=12", "HEAD")
    return (found + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")) or "unknown"


def machine() -> str:
    """Say what the machine is, in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
