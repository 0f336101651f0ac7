"""The compiled reading of fetched batches: the same records as aiokafka makes of them, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiokafka.consumer.fetcher
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.compiled import Compiled, load
from services.ingest.compiled_reading import CompiledReader
from shared import fetching
from shared.fetching import TolerantRecords, read_batches_with
from tests.integration.test_cost_of_a_batch import counting_calls
from tests.kafka_records import add_record, batch_builder, batch_of_records

TP = TopicPartition("usage.events", 3)
READER = CompiledReader(load(Compiled.REQUIRED))
READ_COMMITTED = 1
APPEND_TIME = 0x08
CRC_AT, ATTRIBUTES_AT, MAX_TIMESTAMP_AT = 17, 21, 35

some_bytes = st.binary(max_size=40) | st.binary(min_size=60, max_size=200)
records = st.tuples(
    st.none() | some_bytes, st.none() | some_bytes, st.lists(st.tuples(st.binary(max_size=12), st.none() | some_bytes), max_size=3)
)  # fmt: skip
batches = st.tuples(
    st.lists(records, min_size=1, max_size=5),
    st.integers(0, 4),
    st.integers(0, 2**62),
    st.none() | st.integers(0, 2**41),
)


@pytest.fixture(autouse=True)
def reader_of_its_own() -> Iterator[None]:
    """Read as this process did before, once a test is over."""
    read, walk = TolerantRecords.reader, aiokafka.consumer.fetcher.PartitionRecords
    yield
    TolerantRecords.reader, aiokafka.consumer.fetcher.PartitionRecords = read, walk


def batch_of(contents: Any, codec: int, base_offset: int, append_time: int | None) -> bytes:
    """Return a batch as a broker keeps it."""
    builder = batch_builder(codec=codec)
    for number, (key, value, headers) in enumerate(contents):
        add_record(builder, number, value, headers, key=key)
    made = bytearray(builder.build())
    made[:8] = base_offset.to_bytes(8, "big")
    if append_time is not None:
        made[ATTRIBUTES_AT + 1] |= APPEND_TIME
        made[MAX_TIMESTAMP_AT : MAX_TIMESTAMP_AT + 8] = append_time.to_bytes(8, "big")
        made[CRC_AT:ATTRIBUTES_AT] = READER.native.checksum(bytes(made), ATTRIBUTES_AT, len(made)).to_bytes(4, "big")
    return bytes(made)


def read(fetched: bytes, reader: CompiledReader | None, offset: int = 0) -> list[Any] | str:
    """Return what a consumer gets of a fetch, or what it raises."""
    read_batches_with(reader)
    walk = aiokafka.consumer.fetcher.PartitionRecords(
        TP, TolerantRecords(fetched), [], offset, None, None, True, READ_COMMITTED
    )
    try:
        found = [
            (r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.serialized_value_size, [*r.headers])
            for r in walk
        ]  # as `FetchResult.getall` does
    except Exception as error:
        return type(error).__name__
    return [*found, walk.next_fetch_offset]


@given(st.lists(batches, min_size=1, max_size=3), st.integers(0, 3))
def test_records_are_those_that_aiokafka_makes(fetched: list[Any], skipped: int) -> None:
    whole = b"".join(batch_of(*batch) for batch in fetched)
    offset = fetched[0][2] + skipped
    assert read(whole, READER, offset) == read(whole, None, offset)


@given(batches, st.data())
def test_what_is_damaged_is_what_aiokafka_says_of_it(batch: Any, data: st.DataObject) -> None:
    """Behind a checksum that is right: so that it is the reading that meets the damage."""
    damaged = bytearray(batch_of(*batch))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(ATTRIBUTES_AT, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged[CRC_AT:ATTRIBUTES_AT] = READER.native.checksum(bytes(damaged), ATTRIBUTES_AT, len(damaged)).to_bytes(4, "big")  # fmt: skip
    found = READER.records(bytes(damaged), 0, len(damaged), TP)
    if found is not None:
        assert read(bytes(damaged), READER) == read(bytes(damaged), None)


def test_a_wrong_checksum_is_refused() -> None:
    damaged = bytearray(batch_of_records([[], []]))
    damaged[-1] ^= 1
    assert not READER.intact(bytes(damaged), 0, len(damaged))
    assert read(bytes(damaged), READER) == read(bytes(damaged), None) == "CorruptRecordException"


def test_records_are_compiled_ones_and_let_aiokafka_go_on() -> None:
    fetched = batch_of_records([[], [(b"caf\xe9", b"1")]])
    read_batches_with(READER)
    walk = fetching._PartitionRecords(TP, TolerantRecords(fetched), [], 0, None, None, True, READ_COMMITTED)
    first, second = walk
    assert {type(first), type(second)} == {READER.native.Record}
    assert second.headers == (("caf\\xe9", b"1"),)
    assert next(walk, None) is None
    assert issubclass(type(walk), PartitionRecords)


@pytest.mark.parametrize("end", [0, 60, 61, 70, 10_000])
def test_a_batch_that_is_cut_off_is_not_read(end: int) -> None:
    whole = batch_of_records([[], []])
    assert READER.records(whole, 0, end, TP) is None
    assert not READER.intact(whole, 0, end)


def test_an_older_format_is_not_read() -> None:
    older = bytearray(batch_of_records([[]]))
    older[16] = 1
    assert READER.records(bytes(older), 0, len(older), TP) is None


@pytest.mark.parametrize(("reader", "most"), [(READER, 3.1), (None, None)])
def test_a_record_takes_hardly_a_call(reader: CompiledReader | None, most: float | None) -> None:
    """Counted and not timed; aiokafka's own way is what a reader that refuses everything comes to."""
    many = 1_000
    fetched = batch_of([(b"key", b"value", [])] * many, 0, 0, None)
    read_batches_with(reader)
    walk = aiokafka.consumer.fetcher.PartitionRecords(
        TP, TolerantRecords(fetched), [], 0, None, None, True, READ_COMMITTED
    )
    with counting_calls() as calls:
        found = [record for record in walk]  # noqa: C416 – list() would ask for a length first
    assert len(found) == many
    assert calls[0] / many <= most if most else calls[0] / many > 4
