"""The file that a spool writes to, and those that it has written: what reaches the disk, and when."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from tallystick.spool.files import Segment


class Writing:
    """Not safe for threads by itself, but for `sync`, which any may call; `lock` is what guards the rest."""

    def __init__(self, directory: Path, lock: threading.Lock) -> None:
        self._directory = directory
        self._lock = lock
        self._sync_lock = threading.Lock()  # only its holder closes files
        self._segment: Segment | None = None
        self._file = -1
        self._left: list[int] = []  # files that are written no more, and wait to be synced and closed
        self._directory_changed = False

    @property
    def segment(self) -> Segment | None:
        """The segment that is written to, if any."""
        return self._segment

    def begin(self, segment: Segment) -> None:
        """Write to a new segment from now on. Raises `OSError`."""
        self.leave()
        self._file = segment.create()
        self._segment = segment
        self._directory_changed = True

    def leave(self) -> None:
        """Write no more to this segment."""
        if self._segment is not None:
            self._left.append(self._file)
            self._segment = None

    def directory_changed(self) -> None:
        """Force the names of files to disk, too, with the next `sync`."""
        self._directory_changed = True

    def write(self, framed: bytes) -> None:
        """Append a frame to the segment, whole, or raise `OSError` and leave no part of it behind that counts.

        Where even taking back what was written fails, the segment ends in a torn frame, and is left.
        """
        segment = self._segment
        if segment is None:
            raise OSError(errno.EBADF, "no segment is open")
        written = os.write(self._file, framed)
        if written == len(framed):
            segment.size += written
            return
        try:
            os.ftruncate(self._file, segment.size)
        except OSError:
            segment.size += written  # a reader takes it for the torn frame that it is
            self.leave()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Return when all that was written before is on disk. Raises `OSError` if the disk says that it is not."""
        with self._sync_lock:
            with self._lock:
                left, self._left = self._left, []
                files = [*left, self._file] if self._segment is not None else left
                changed, self._directory_changed = self._directory_changed, False
            try:
                for file in files:
                    os.fsync(file)
                if changed:
                    _sync_directory(self._directory)
            finally:
                for file in left:
                    os.close(file)


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
