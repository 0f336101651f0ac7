"""Records whose header names are not UTF-8 are read like any other; a fetch that fails is known of."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.errors import ConsumerStoppedError, KafkaError
from aiokafka.record.memory_records import MemoryRecords

from shared.fetching import TolerantRecords, watch_fetches
from tests.kafka_records import Header, batch_of_records

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)


def contents(records: Any) -> dict[int, Any]:
    """All records by offset. A batch that is read again may give one twice; the same content then."""
    found: dict[int, Any] = {}
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        for record in batch:
            content = (record.key, record.value, list(record.headers))
            assert found.setdefault(record.offset, content) == content
    return found


BATCH: list[list[Header]] = [[(b"ok", b"1")], [(b"caf\xe9", b"\xff"), (b"null", None)], []]


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_a_header_name_of_any_bytes_is_read_with_escapes_and_its_neighbours_as_they_are(codec: int) -> None:
    fetched = batch_of_records(BATCH, codec=codec) + batch_of_records(BATCH, codec=codec, base_offset=3)

    assert contents(TolerantRecords(fetched)) == {
        offset: (b"key", b"value %d" % (offset % 3), headers)
        for offset, headers in enumerate(
            [[("ok", b"1")], [("caf\\xe9", b"\xff"), ("null", None)], [], [("ok", b"1")], [("caf\\xe9", b"\xff"), ("null", None)], []]
        )
    }  # fmt: skip


def test_aiokafka_itself_still_needs_this() -> None:
    with pytest.raises(UnicodeDecodeError):
        contents(MemoryRecords(batch_of_records(BATCH)))


def test_a_batch_that_is_cut_off_is_left_for_the_next_fetch() -> None:
    whole = batch_of_records(BATCH)
    records = TolerantRecords(whole + whole[:-5])

    assert set(contents(records)) == {0, 1, 2}
    assert records.size_in_bytes() == 2 * len(whole) - 5


class FakeConsumer:
    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    async def getmany(self, *_partitions: Any, **_options: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "told"),
    [({"records": 1}, False), (KafkaError("corrupt"), True), (ValueError("?"), True), (ConsumerStoppedError(), False)],
)
async def test_a_failed_fetch_is_told_once_and_still_raised(outcome: Any, told: bool) -> None:
    consumer, failures = FakeConsumer(outcome), list[Exception]()
    for _ in range(2):
        watch_fetches(consumer, failures.append)

    if isinstance(outcome, Exception):
        with pytest.raises(type(outcome)):
            await consumer.getmany(timeout_ms=1, max_records=5)
    else:
        assert await consumer.getmany(timeout_ms=1, max_records=5) == outcome
    assert failures == ([outcome] if told else [])
