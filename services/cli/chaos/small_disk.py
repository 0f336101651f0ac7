"""A file system that can be full: a tmpfs of the harness' own for a part of the database, whose size is set while it is used.

Mounting needs root. Where that is refused, `real` is False, and the harness lets the server say what it says on a full disk.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

_LARGE: Final = "4g"
"""What may be used at most; a tmpfs takes only what is used."""


class SmallDisk:
    """The file system, once it is mounted."""

    def __init__(self) -> None:
        self._place: Path | None = None

    @property
    def real(self) -> bool:
        """Whether there is one."""
        return self._place is not None

    def mount(self, place: Path) -> None:
        """Mount it over the directory of an empty tablespace, if that is allowed here."""
        owner, inside = place.stat(), [child.name for child in place.iterdir()]
        if os.geteuid() != 0 or not _run("mount", "-t", "tmpfs", "-o", f"size={_LARGE},mode=700", "tmpfs", str(place)):
            return
        self._place = place
        for directory in (place, *(place / name for name in inside)):
            directory.mkdir(mode=0o700, exist_ok=True)
            os.chown(directory, owner.st_uid, owner.st_gid)

    def fill(self) -> None:
        """Leave no byte free."""
        state = os.statvfs(self._there)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        _run("mount", "-o", f"remount,size={max(used, state.f_frsize)}", str(self._there))

    def make_room(self) -> None:
        """Let it grow again."""
        _run("mount", "-o", f"remount,size={_LARGE}", str(self._there))

    def unmount(self) -> None:
        """Give it back, with all in it."""
        if self._place and _run("umount", "--lazy", str(self._place)):
            self._place = None

    @property
    def _there(self) -> Path:
        assert self._place is not None, "asked for only where it is mounted"  # noqa: S101
        return self._place


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
