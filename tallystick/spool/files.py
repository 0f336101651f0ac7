"""The files of a spool: numbered segments, the lock of the directory, and what a dead process has left."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from tallystick.errors import SpoolError

_LOCK: Final = "lock"
_SUFFIX: Final = ".segment"


class Locked(SpoolError):
    """Another process writes in this directory."""


class Segment:
    """One file of frames, only ever appended to. `size` in bytes, of whole frames as far as this process wrote it."""

    __slots__ = ("number", "path", "size")

    def __init__(self, directory: Path, number: int, size: int = 0) -> None:
        self.number = number
        self.path = directory / f"{number:020d}{_SUFFIX}"
        self.size = size

    def create(self) -> int:
        """Make the file; return it open for appending."""
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def read(self, start: int) -> bytes:
        """Return the bytes `[start, size)`."""
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), self.size - start, start)


def segments(directory: Path) -> list[Segment]:
    """Return the segments that are there, in order."""
    found = sorted(path for path in directory.glob(f"*{_SUFFIX}") if path.stem.isdecimal())
    return [Segment(directory, int(path.stem), path.stat().st_size) for path in found]


def lock(directory: Path) -> int:
    """Make the directory, lock it for this process, return the open lock: closing it, or the end of the process, releases it.

    Raises `Locked`, and `SpoolError` for a directory that cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolError(
            f"{directory}: {error.strerror}; give the spool a directory that this process may write"
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(held, 32, 0).decode(errors="replace") or "unknown"
        os.close(held)
        raise Locked(f"{directory}: process {owner} writes here; give each process a directory of its own") from error
    os.ftruncate(held, 0)
    os.pwrite(held, str(os.getpid()).encode(), 0)
    return held
