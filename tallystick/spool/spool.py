"""The spool: append, read, acknowledge, and what happens when the disk does not take it."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from tallystick.errors import SpoolError, SpoolFull
from tallystick.spool import files
from tallystick.spool.files import Segment
from tallystick.spool.frames import LARGEST_RECORD, Damage, frame, frames
from tallystick.spool.writing import Writing

_log: Final = logging.getLogger("tallystick.spool")
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_COMPLAIN_EVERY_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a spool may take. Bytes on disk, bytes of a file, and seconds until what was appended is forced to disk.

    A segment is deleted when all of it is acknowledged. One that is still written to is, from `worth_deleting` bytes on.
    """

    total_bytes: int = 1024**3
    segment_bytes: int = 1024**2
    worth_deleting_bytes: int = 64 * 1024
    sync_seconds: float = 0.05


DEFAULT_LIMITS: Final = Limits()


class Batch(NamedTuple):
    """Records in order, and where they end: what `acknowledge` takes."""

    records: tuple[bytes, ...]
    segment: int
    end: int


class Spool:
    """Records on disk, in one directory, written by one process: any thread may append, one reads and acknowledges.

    `append` refuses what there is no room for; each refusal is counted in `refused`, logged as an error (at most every 10 seconds), and told
    to `on_full`, which is called with the number of refusals so far. Raises `Locked` if another process writes there.
    """

    def __init__(
        self, directory: Path | str, limits: Limits = DEFAULT_LIMITS, on_full: Callable[[int], None] | None = None
    ) -> None:
        self.directory: Final = Path(directory)
        self.limits: Final = limits
        self.refused = 0
        self.appended = 0
        self.damaged_bytes = 0
        self._on_full = on_full
        self._complained = -_COMPLAIN_EVERY_SECONDS
        self._held = files.lock(self.directory)
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of the state; never held while something is forced to disk
        self._writing = Writing(self.directory, self._lock)
        self._segments = deque(files.segments(self.directory))
        self._next_number = self._segments[-1].number + 1 if self._segments else 1
        self._bytes = sum(segment.size for segment in self._segments)
        self._delivered = 0  # bytes of the first segment
        self._closed = False
        self._unsynced = threading.Event()
        self._closing = threading.Event()
        self._syncing = threading.Thread(target=self._sync_now_and_then, name="tallystick-spool-sync", daemon=True)
        self._syncing.start()

    def append(self, record: bytes) -> None:
        """Keep a record: when this returns it survives the end of this process, and about `sync_seconds` later that of the machine.

        Raises `SpoolFull` if there is no room, `SpoolError` if the disk fails or this is not the process that opened it: the record is not
        kept then. `ValueError` for an empty or oversize record.
        """
        framed = frame(record)
        if self._pid != os.getpid():  # before the lock, which a fork may have copied in its parent's hands
            raise _not_ours(self.directory)
        with self._lock:
            if self._closed:
                raise _not_ours(self.directory)
            problem = self._write(framed)
            if problem is None:
                self.appended += 1
                if not self._unsynced.is_set():
                    self._unsynced.set()
                return
            self.refused += 1
            refused = self.refused
        self._complain(problem, refused)
        raise problem

    def read(self, most_records: int = 1000, most_bytes: int = LARGEST_RECORD) -> Batch | None:
        """Return the oldest records that are not acknowledged, one at least, all of one segment; None if there are none."""
        while True:
            with self._lock:
                self._drop_delivered()
                if not self._segments or self._delivered == self._segments[0].size:
                    return None
                segment, start = self._segments[0], self._delivered
            records: list[bytes] = []
            end = start
            for found in frames(segment.read(start)):
                if isinstance(found, Damage):
                    if not records:
                        self._set_aside(segment, start + found.start, start + found.end, torn=found.torn)
                    break
                if records and (len(records) == most_records or len(found.record) > most_bytes):
                    break
                records.append(found.record)
                most_bytes -= len(found.record)
                end = start + found.end
            if records:
                return Batch(tuple(records), segment.number, end)

    def acknowledge(self, batch: Batch) -> None:
        """Forget the records of this batch, the last that was read: they have been delivered."""
        with self._lock:
            if self._segments and self._segments[0].number == batch.segment:
                self._delivered = max(self._delivered, batch.end)
                self._drop_delivered()

    def adopt(self, directory: Path) -> int:
        """Take over what a dead process has left in its directory; return how many segments. Raises `Locked` if the process lives."""
        held = files.lock(directory)
        try:
            with self._lock:
                orphans = files.segments(directory)
                if orphans:
                    self._writing.leave()  # which must be the last
                    self._writing.directory_changed()
                for orphan in orphans:
                    segment = Segment(self.directory, self._next_number, orphan.size)
                    orphan.path.rename(segment.path)
                    self._next_number += 1
                    self._segments.append(segment)
                    self._bytes += segment.size
                return len(orphans)
        finally:
            os.close(held)

    @property
    def end(self) -> tuple[int, int]:
        """Where the next record will be, or beyond: compare it with `start` later on."""
        with self._lock:
            return (self._segments[-1].number, self._segments[-1].size) if self._segments else (self._next_number, 0)

    @property
    def start(self) -> tuple[int, int]:
        """Where the first record is that is not acknowledged: what was appended before `end` is delivered when this has reached it."""
        with self._lock:
            return (self._segments[0].number, self._delivered) if self._segments else (self._next_number, 0)

    @property
    def waiting_bytes(self) -> int:
        """Bytes on disk that are not acknowledged, frames included."""
        with self._lock:
            return self._bytes - self._delivered

    @property
    def room(self) -> float:
        """Share of `total_bytes` that is free, 0 to 1."""
        with self._lock:
            return max(0.0, 1 - self._bytes / self.limits.total_bytes)

    def sync(self) -> None:
        """Return when all that was appended before is on disk. Raises `SpoolError` if the disk says that it is not."""
        try:
            self._writing.sync()
        except OSError as error:
            raise SpoolError(
                f"{self.directory}: the disk could not keep what was written ({error.strerror}); replace it"
            ) from error

    def close(self) -> None:
        """Force everything to disk, delete what is delivered, release the directory. What is not delivered stays for the next who opens it."""
        if self._pid != os.getpid():
            return  # a fork's copy: the files are the parent's
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._closing.set()
        self._unsynced.set()
        self._syncing.join()
        with self._lock:
            self._writing.leave()
            self._drop_delivered()
        try:
            self.sync()
        finally:
            os.close(self._held)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, framed: bytes) -> SpoolError | None:
        """Append a frame to the last segment, or to a new one; return why it is not there. Leaves no part of it behind that counts."""
        if self._bytes + len(framed) > self.limits.total_bytes:
            return SpoolFull(
                f"{self.directory}: the spool is full ({self.limits.total_bytes} bytes); nothing has been delivered for too long, or it is too small"
            )
        try:
            segment = self._segment_for(len(framed))
            before = segment.size
            try:
                self._writing.write(framed)
            finally:
                self._bytes += segment.size - before
        except OSError as error:
            message = f"{self.directory}: {error.strerror}; make room on this disk, or give the spool another one"
            return SpoolFull(message) if error.errno in _NO_ROOM else SpoolError(message)
        return None

    def _segment_for(self, size: int) -> Segment:
        """Return the segment that is written to, a new one if the old one has no room for so many bytes."""
        segment = self._writing.segment
        if segment is None or 0 < segment.size > self.limits.segment_bytes - size:
            segment = Segment(self.directory, self._next_number)
            self._writing.begin(segment)
            self._next_number += 1
            self._segments.append(segment)
        return segment

    def _drop_delivered(self) -> None:
        """Delete segments that are delivered whole; the one that is written to only if that is worth a new file, or we close."""
        while self._segments and self._delivered >= self._segments[0].size:
            segment = self._segments[0]
            if segment is self._writing.segment:
                if segment.size < self.limits.worth_deleting_bytes:
                    return
                self._writing.leave()
            segment.path.unlink(missing_ok=True)
            self._segments.popleft()
            self._bytes -= segment.size
            self._delivered = 0

    def _set_aside(self, segment: Segment, start: int, end: int, *, torn: bool) -> None:
        """Pass over bytes that are no frame. Torn ones belong to an `append` that never returned; others are kept, and told of."""
        if torn:
            _log.warning(
                "spool.torn_record %s: %d bytes at its end were never written whole", segment.path, end - start
            )
        else:
            kept = segment.path.with_name(f"{segment.path.stem}-{start}.damaged")
            kept.write_bytes(segment.read(start)[: end - start])
            _log.error(
                "spool.damaged %s: %d bytes at %d are no record; kept in %s", segment.path, end - start, start, kept
            )
        with self._lock:
            self._delivered = end
            self.damaged_bytes += end - start

    def _complain(self, problem: SpoolError, refused: int) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_SECONDS:
            self._complained = now
            _log.error("spool.refused %s; %d records refused so far", problem, refused)
        if self._on_full is not None:
            try:
                self._on_full(refused)
            except Exception:
                _log.exception("spool.on_full_failed")

    def _sync_now_and_then(self) -> None:
        """Force to disk in groups: what is appended in `sync_seconds` costs one wait for the disk."""
        while not self._closing.is_set():
            self._unsynced.wait()
            self._closing.wait(self.limits.sync_seconds)
            self._unsynced.clear()  # here alone: `close` sets it after `_closing`
            try:
                self.sync()
            except SpoolError as error:
                _log.error("spool.sync_failed %s", error)


def _not_ours(directory: Path) -> SpoolError:
    return SpoolError(f"{directory}: the spool is closed here; open one in each process, after a fork")
