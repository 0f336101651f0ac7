"""The spool hands out what was appended, in order and at least once, whatever happens to the process and the files in between."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tallystick.errors import SpoolError, SpoolFull
from tallystick.spool import Batch, Limits, Locked, Spool, claim
from tallystick.spool.frames import HEADER_BYTES, MARK, Damage, Frame, frame, frames

SMALL: Final = Limits(total_bytes=4096, segment_bytes=256, worth_deleting_bytes=64, sync_seconds=0.001)
records = st.binary(min_size=1, max_size=60)


def everything(spool: Spool, at_once: int = 7) -> list[bytes]:
    """Read and acknowledge all that waits."""
    found: list[bytes] = []
    while batch := spool.read(at_once):
        found += batch.records
        spool.acknowledge(batch)
    return found


# --- frames ------------------------------------------------------------------------------------------------------------


@given(st.lists(records))
def test_frames_hold_their_records(written: list[bytes]) -> None:
    content = b"".join(map(frame, written))
    assert [found.record for found in frames(content) if isinstance(found, Frame)] == written
    assert not any(isinstance(found, Damage) for found in frames(content))


@given(st.lists(records, min_size=1), st.data())
def test_a_file_that_is_cut_off_loses_the_last_record_only(written: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame, written[:-1]))
    last = frame(written[-1])
    cut = data.draw(st.integers(1, len(last) - 1))

    *found, damage = frames(whole + last[:cut])

    assert [each.record for each in found if isinstance(each, Frame)] == written[:-1]
    assert damage == Damage(len(whole), len(whole) + cut, torn=True)


@given(st.lists(records, min_size=1), st.data())
def test_a_damaged_byte_costs_the_record_that_it_is_in(written: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, sum(len(frame(record)) for record in written) - 1))
    content = bytearray(b"".join(map(frame, written)))
    content[at] ^= data.draw(st.integers(1, 255))
    ends = [sum(len(frame(record)) for record in written[: number + 1]) for number in range(len(written))]
    hit = next(number for number, end in enumerate(ends) if at < end)

    found = list(frames(bytes(content)))

    assert [each.record for each in found if isinstance(each, Frame)] == written[:hit] + written[hit + 1 :]
    assert sum(each.end - each.start for each in found if isinstance(each, Damage)) == len(frame(written[hit]))


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_and_damage_without_a_gap(content: bytes) -> None:
    at = 0
    for found in frames(MARK + content):
        assert (found.start if isinstance(found, Damage) else found.end - len(found.record) - HEADER_BYTES) == at
        at = found.end
    assert at == len(MARK + content)


# --- a spool against the list that it is --------------------------------------------------------------------------------


class SpoolAgainstList(RuleBasedStateMachine):
    """Appends, reads, acknowledges and reopens in any order; a list says what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp()) / "0"
        self.spool = Spool(self.directory, SMALL)
        self.expected: list[bytes] = []
        self.refused = 0

    @rule(record=records)
    def append(self, record: bytes) -> None:
        try:
            self.spool.append(record)
        except SpoolFull:
            self.refused += 1
            return
        self.expected.append(record)

    @rule(most=st.integers(1, 20), most_bytes=st.integers(1, 300))
    def deliver(self, most: int, most_bytes: int) -> None:
        batch = self.spool.read(most, most_bytes)
        if batch is None:
            assert self.expected == []
            return
        assert self.spool.read(most, most_bytes) == batch, "what is not acknowledged is read again"
        assert list(batch.records) == self.expected[: len(batch.records)]
        assert len(batch.records) == 1 or (len(batch.records) <= most and sum(map(len, batch.records)) <= most_bytes)
        self.spool.acknowledge(batch)
        del self.expected[: len(batch.records)]

    @rule(killed=st.booleans())
    def reopen(self, killed: bool) -> None:
        """Begin anew, after the end of the process. Segments that were not acknowledged whole are handed out again."""
        if killed:
            left = self.directory.with_name(str(int(self.directory.name) + 1))
            shutil.copytree(self.directory, left)
            self.spool.close()
            self.directory = left
        else:
            self.spool.close()
        self.spool = Spool(self.directory, SMALL)
        self.refused = 0
        again: list[bytes] = []
        while batch := self.spool.read():
            again += batch.records
            self.spool.acknowledge(batch)
        assert again[len(again) - len(self.expected) :] == self.expected
        self.expected = []

    @invariant()
    def nothing_is_refused_in_silence(self) -> None:
        assert self.spool.refused == self.refused

    @invariant()
    def no_more_is_on_disk_than_was_allowed(self) -> None:
        assert sum(path.stat().st_size for path in self.directory.glob("*.segment")) <= SMALL.total_bytes

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.directory.parent)


TestSpoolAgainstList = SpoolAgainstList.TestCase
TestSpoolAgainstList.settings = settings(max_examples=30, stateful_step_count=30)


def test_a_closed_spool_that_was_delivered_leaves_no_segments(tmp_path: Path) -> None:
    with Spool(tmp_path, SMALL) as spool:
        for number in range(20):
            spool.append(b"record %d" % number)
        assert everything(spool) == [b"record %d" % number for number in range(20)]
        assert spool.waiting_bytes == 0

    assert list(tmp_path.glob("*.segment")) == []


def test_threads_append_side_by_side(tmp_path: Path) -> None:
    with Spool(tmp_path, Limits(segment_bytes=1024, worth_deleting_bytes=64)) as spool:
        found: list[bytes] = []

        def write(name: int) -> None:
            for number in range(300):
                spool.append(b"%d-%d" % (name, number))

        writers = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            found += everything(spool, 50)
        found += everything(spool, 50)

    assert sorted(found) == sorted(b"%d-%d" % (name, n) for name in range(4) for n in range(300))
    for name in range(4):
        mine = [record for record in found if record.startswith(b"%d-" % name)]
        assert mine == [b"%d-%d" % (name, n) for n in range(300)], "in the order of each thread"


# --- full, and broken disks ---------------------------------------------------------------------------------------------


def test_a_full_spool_refuses_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []
    with Spool(tmp_path, SMALL, on_full=told.append) as spool:
        kept = 0
        with caplog.at_level(logging.ERROR), pytest.raises(SpoolFull, match="full"):
            while True:
                spool.append(b"x" * 50)
                kept += 1
        with pytest.raises(SpoolFull):
            spool.append(b"x" * 50)

        assert (spool.refused, told, spool.appended) == (2, [1, 2], kept)
        assert [record.message.split()[0] for record in caplog.records] == ["spool.refused"], "not once for each"
        assert spool.room < 0.02

        batch = spool.read()
        assert batch is not None
        spool.acknowledge(batch)
        spool.append(b"room again")
        assert everything(spool) == [b"x" * 50] * (kept - len(batch.records)) + [b"room again"]


def test_what_a_full_disk_took_half_of_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with Spool(tmp_path, SMALL) as spool:
        spool.append(b"before")
        monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:9]))
        with pytest.raises(SpoolFull, match="No space left"):
            spool.append(b"half of it")
        monkeypatch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(SpoolFull):
            spool.append(b"half of it stays")
        monkeypatch.undo()
        spool.append(b"after")

        assert everything(spool) == [b"before", b"after"]


def test_a_disk_that_cannot_keep_what_was_written_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Spool(tmp_path, SMALL) as spool:
        spool.append(b"record")
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(SpoolError, match="Input/output error"):
            spool.sync()
        monkeypatch.undo()


def test_a_damaged_record_is_set_aside_and_the_others_are_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool(tmp_path, Limits()) as spool:
        for record in (b"first", b"second", b"third"):
            spool.append(record)
    (segment,) = tmp_path.glob("*.segment")
    content = segment.read_bytes().replace(b"second", b"sec0nd")
    segment.write_bytes(content)

    with Spool(tmp_path, Limits()) as spool:
        assert everything(spool) == [b"first", b"third"]
        assert spool.damaged_bytes == len(frame(b"second"))

    (kept,) = tmp_path.glob("*.damaged")
    assert kept.read_bytes() in content
    assert "spool.damaged" in caplog.text


# --- processes ----------------------------------------------------------------------------------------------------------


def test_a_directory_has_one_writer(tmp_path: Path) -> None:
    with Spool(tmp_path, SMALL), pytest.raises(Locked, match=f"process {os.getpid()} writes here"):
        Spool(tmp_path, SMALL)


def test_a_fork_cannot_write_into_its_parents_spool(tmp_path: Path) -> None:
    with Spool(tmp_path, SMALL) as spool:
        child = os.fork()
        if child == 0:
            try:
                spool.append(b"from the child")
            except SpoolError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert spool.read() is None


def test_workers_take_directories_of_their_own_and_what_the_dead_have_left(tmp_path: Path) -> None:
    first, second = claim(tmp_path, SMALL), claim(tmp_path, SMALL)
    assert (first.directory.name, second.directory.name) == ("0", "1")
    first.append(b"of the first")
    second.append(b"of the second")
    second.close()
    first.close()

    with claim(tmp_path, SMALL) as only:
        assert only.directory.name == "0"
        assert everything(only) == [b"of the first", b"of the second"]
        only.append(b"more")
        assert everything(only) == [b"more"]


WRITER: Final = """
import sys
from tallystick.spool import Limits, Spool
spool = Spool(sys.argv[1], Limits(segment_bytes=4096, sync_seconds=0.001))
for number in range(10**9):
    spool.append(b"%d." % number + b"x" * (number % 97))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("after", [1, 150, 1500])
def test_what_was_appended_survives_sigkill(tmp_path: Path, after: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = -1
        for line in writer.stdout:
            told = int(line)
            if told >= after:
                writer.send_signal(signal.SIGKILL)
                break
        rest = writer.stdout.read().split("\n")[:-1]
        told = int(rest[-1]) if rest else told

    with Spool(tmp_path) as spool:
        found = everything(spool, 100)

    assert len(found) >= told + 1, "what append returned for is there"
    assert found == [b"%d." % number + b"x" * (number % 97) for number in range(len(found))], (
        "in order, each once, nothing torn"
    )
    assert len(found) <= told + 2


def test_a_batch_that_is_acknowledged_twice_takes_no_others_along(tmp_path: Path) -> None:
    with Spool(tmp_path, SMALL) as spool:
        for number in range(12):
            spool.append(b"%d" % number + b"x" * 50)
        first = spool.read(2)
        assert isinstance(first, Batch)
        spool.acknowledge(first)
        spool.acknowledge(first)
        assert len(everything(spool)) == 10
