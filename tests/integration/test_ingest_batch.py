"""A whole batch: everything that may be in it is accounted for, stored with its position, and announced."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from services.ingest.acceptance import Limits, Reason
from services.ingest.publishing import LEFTOVER_SECONDS
from shared.consumer import Slice
from shared.contracts import USAGE_DEAD_LETTER, UsageEvent
from shared.errors import BrokenInvariant
from shared.ids import uuid7
from shared.outbox import Message, Outbox
from shared.positions import Position
from shared.postgres import Pool
from tests.integration.aggregator_facts import make_subscription
from tests.integration.ingest_facts import Ingest, Record, make_key
from tests.unit.ingest.events import NOW, binary, judge, record, structured
from tests.unit.ingest.facts import row_of


@pytest_asyncio.fixture
async def ingest(ingest_pool: Pool) -> Ingest:
    return Ingest(ingest_pool)


@pytest_asyncio.fixture
async def subscription(ingest_pool: Pool) -> str:
    return str(await make_subscription(ingest_pool))


async def test_a_batch_of_everything_adds_up(ingest: Ingest, subscription: str) -> None:
    nobody = str(uuid7())
    value, headers = binary(id="binary", subject=subscription)
    await ingest.apply(record(structured(id="stored", subject=subscription), offset=3))
    batch: list[Record] = [
        record(structured(id="new", subject=subscription), offset=4),
        record(structured(id="new", subject=subscription), offset=5),  # in the same batch
        record(structured(id="stored", subject=subscription), offset=6),  # from an earlier one
        # 7 and 8: the markers of a transaction
        record(value, offset=9, headers=headers),
        record(structured(id="unknown", subject=nobody), offset=10),
        record(None, offset=11),
        record(b"not json", offset=12, key=None),
        record(b"\xff\xfe", offset=13, headers=[("bad\0name", b"\xff"), ("null", None)]),
        record(structured(id="new", subject=subscription, data={"model": "other"}), offset=14),
        record(structured(id="old", subject=subscription, time="2020-01-01T00:00:00Z"), offset=15),
        record(structured(id="tool", subject=subscription, data={"model": None, "tool_name": "search", "colour": "red"}), offset=16),
        record(structured(id="nul", subject=subscription, data={"end_user": "\0"}), offset=17),
        record(structured(id="joe", subject="joe"), offset=18),
    ]  # fmt: skip

    await ingest.apply(*batch)

    assert await ingest.counts() == {"inserted": 4, "duplicates": 2, "quarantined": 7, "held": 1, "gaps": 2}
    assert [row["request_id"] for row in await ingest.stored()] == ["binary", "new", "stored", "tool"]
    assert [(row["record_offset"], row["reason"]) for row in await ingest.quarantined()] == [
        (11, "tombstone"), (12, "not_json"), (13, "not_utf8"), (14, "conflict"), (15, "too_old"), (17, "nul_character"), (18, "invalid_value"),
    ]  # fmt: skip
    assert [row["record_offset"] for row in await ingest.held()] == [10]
    assert await ingest.pool.fetchval("SELECT next_offset FROM ingest_positions") == 19
    assert await ingest.waiting() == 0
    assert await ingest.adds_up()
    [first, second] = ingest.recorded()
    assert (first.origin.first_offset, first.origin.next_offset) == (3, 4)
    assert (second.origin.first_offset, second.origin.next_offset, second.event_count) == (4, 19, 3)
    assert sum(delta.request_tokens for delta in second.deltas) == 30
    assert len(ingest.letters()) == 7


async def test_quarantine_keeps_a_record_as_it_came(ingest: Ingest) -> None:
    headers = [("a\0b", b"\xff\x00"), ("null", None), ("", b""), ("twice", b"1"), ("twice", b"2")]
    await ingest.apply(
        record(b"\x00\xff{", offset=0, key=b"\x00key\xff", headers=headers, timestamp=1_795_000_000_123, partition=2),
        record(None, offset=1, key=None, timestamp=-1, partition=2),
        record(b"", offset=2, key=b"", timestamp=2**62, partition=2),
    )

    first, tombstone, empty = await ingest.quarantined()
    assert (first["record_value"], first["record_key"], first["partition"]) == (b"\x00\xff{", b"\x00key\xff", 2)
    assert first["record_headers"] == [["a\\u0000b", "/wA="], ["null", None], ["", ""], ["twice", "MQ=="], ["twice", "Mg=="]]  # fmt: skip
    assert first["published_at"].isoformat() == "2026-11-18T11:06:40.123000+00:00"
    assert (tombstone["record_value"], tombstone["record_key"], tombstone["published_at"]) == (None, None, None)
    assert (empty["record_value"], empty["record_key"]) == (b"", b"")
    assert empty["published_at"] is None, "a producer sent nanoseconds: no time of ours"


async def test_a_dead_letter_has_the_original_bytes_and_says_where_and_why(ingest: Ingest) -> None:
    await ingest.apply(record(b"\x00\xff{", offset=5, key=b"\x00key", partition=2), record(None, offset=6, partition=2))

    letter, tombstone = ingest.letters()
    assert (letter.topic, letter.key, letter.value) == (USAGE_DEAD_LETTER, b"\x00key", b"\x00\xff{")
    assert letter.headers["tallystick_reason"] == Reason.NOT_UTF8
    assert letter.headers["tallystick_topic"] == "usage.events"
    assert [letter.headers[f"tallystick_{name}"] for name in ("partition", "epoch", "offset")] == ["2", "0", "5"]
    assert tombstone.value is None


async def test_what_a_detail_quotes_harms_nothing(ingest: Ingest) -> None:
    value = structured(data={"metadata": 5}).replace(b'"metadata"', b'"a\\u0000b": 1, "metadata"')
    await ingest.apply(record(value), record(structured(type="a\0b"), offset=1))

    assert await ingest.counts() == {"quarantined": 2}
    assert len(ingest.letters()) == 2


async def test_a_batch_of_bad_records_alone_is_no_announcement(ingest: Ingest) -> None:
    await ingest.apply_values(b"1", b"2", None)

    assert ingest.recorded() == []
    assert len(ingest.letters()) == 3
    assert await ingest.adds_up()


async def test_a_key_or_its_hash_leads_to_the_subscription(ingest: Ingest, subscription: str) -> None:
    owner = UUID(subscription)
    key, key_hash = await make_key(ingest.pool, owner)
    other = await make_subscription(ingest.pool)
    await ingest.apply_values(
        structured(id="1", subject=..., data={"api_key_id": str(key)}),
        structured(id="2", subject=..., data={"api_key_hash": key_hash}),
        structured(id="3", subject=subscription, data={"api_key_id": str(key), "api_key_hash": key_hash}),
        structured(id="4", subject=subscription),
        structured(id="5", subject=str(other), data={"api_key_hash": key_hash}),
        structured(id="6", subject="", data={"api_key_id": "", "api_key_hash": key_hash}),
    )

    rows = await ingest.stored()
    assert {row["subscription_id"] for row in rows} == {owner}
    assert [row["api_key_id"] for row in rows] == [key, key, key, None, key]
    assert [row["reason"] for row in await ingest.quarantined()] == ["key_mismatch"]


async def test_owners_are_found_again_after_the_cache_made_room(
    ingest: Ingest, subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.attribution.CACHE_ENTRIES", 0)
    other = str(await make_subscription(ingest.pool))
    await ingest.apply_values(structured(id="1", subject=subscription))
    await ingest.apply_values(structured(id="2", subject=subscription), structured(id="3", subject=other))
    await ingest.apply_values(structured(id="4", subject=subscription), structured(id="5", subject=other))

    assert await ingest.counts() == {"inserted": 5}


async def test_an_event_at_the_first_instant_of_a_month_finds_a_partition(ingest: Ingest, subscription: str) -> None:
    await ingest.apply_values(
        structured(id="1", subject=subscription, time="2026-11-01T00:00:00Z"),
        structured(id="2", subject=subscription, time="2026-11-01T00:30:00+01:00"),
    )

    partitions = await ingest.pool.fetch("SELECT tableoid::regclass::text AS name FROM usage_logs ORDER BY created_at")
    assert [row["name"] for row in partitions] == ["usage_logs_2026_10", "usage_logs_2026_11"]


async def test_a_rolled_back_batch_leaves_nothing_and_comes_again(ingest: Ingest, subscription: str) -> None:
    values = [structured(id=str(n), subject=subscription) for n in range(5)] + [b"bad", None]
    batch = [record(value, offset=n) for n, value in enumerate(values)]
    await ingest.pool.execute("ALTER TABLE ingest_positions ADD CONSTRAINT stop CHECK (next_offset < 5)")
    with pytest.raises(Exception, match="stop"):
        await ingest.commit(batch)
    await ingest.pool.execute("ALTER TABLE ingest_positions DROP CONSTRAINT stop")
    assert await ingest.stored() == await ingest.quarantined() == []
    assert await ingest.waiting() == 0

    await ingest.apply(*batch)

    assert await ingest.counts() == {"inserted": 5, "quarantined": 2}


async def test_a_position_that_moved_breaks_an_invariant(ingest: Ingest, subscription: str) -> None:
    await ingest.apply_values(structured(id="1", subject=subscription))
    elsewhere = Slice(Position("usage.events", 0, 0, 0, 7), [record(b"bad", offset=7)])
    async with ingest.pool.acquire() as connection:
        with pytest.raises(BrokenInvariant):
            await ingest.batch(connection, elsewhere)

    assert await ingest.counts() == {"inserted": 1}


# --- publishing -------------------------------------------------------------------------------------------------------


async def age_outbox(pool: Pool) -> None:
    await pool.execute(
        "UPDATE ingest_outbox SET created_at = created_at - make_interval(secs => $1)", LEFTOVER_SECONDS + 1
    )


async def test_what_a_crash_left_between_commit_and_publish_is_published_by_anyone(
    ingest: Ingest, subscription: str
) -> None:
    await ingest.commit([record(structured(subject=subscription)), record(b"bad", offset=1)])
    ingest.restart()  # it died: what was to be done after COMMIT never was
    await ingest.publishing.leftovers()
    assert ingest.published == [], "too young: it may still be in its worker's hands"

    await age_outbox(ingest.pool)
    other = Ingest(ingest.pool)
    await asyncio.gather(ingest.publishing.leftovers(), other.publishing.leftovers())

    assert len(ingest.published) + len(other.published) == 2, "two workers share the work"
    assert await ingest.waiting() == 0


async def test_what_the_broker_does_not_take_stays_and_ingestion_goes_on(ingest: Ingest, subscription: str) -> None:
    ingest.refuse = ConnectionError("broker is away")
    for n in range(3):
        await ingest.apply_values(structured(id=str(n), subject=subscription))
    assert await ingest.waiting() == 3
    await age_outbox(ingest.pool)
    with pytest.raises(ConnectionError):
        await ingest.publishing.leftovers()
    assert await ingest.waiting() == 3

    ingest.refuse = None
    await ingest.publishing.leftovers()

    assert await ingest.waiting() == 0
    assert await ingest.adds_up()


async def test_publishing_keeps_no_more_batches_in_memory_than_it_has_room_for(
    ingest: Ingest, subscription: str
) -> None:
    may_publish, started = asyncio.Event(), 0

    async def slowly(messages: Sequence[Message]) -> None:
        nonlocal started
        started += 1
        await may_publish.wait()

    ingest.publishing._produce = slowly
    after = [await ingest.commit([record(structured(id=str(n), subject=subscription), offset=n)]) for n in range(9)]
    for done in after[:8]:
        await done()
    ninth = asyncio.create_task(after[8]())
    await asyncio.wait([ninth], timeout=0.05)
    assert not ninth.done()
    assert started == 8

    may_publish.set()
    await ninth
    await ingest.publishing.finish()
    assert await ingest.waiting() == 0


# --- in any pieces ----------------------------------------------------------------------------------------------------


async def test_the_same_stream_in_any_pieces_and_from_two_workers_gives_the_same_books(
    ingest_pool: Pool, subscription: str
) -> None:
    rng = random.Random(11)

    def made(number: int, tokens: int) -> bytes:
        time = (NOW - timedelta(seconds=number)).isoformat()
        return structured(id=f"r{number}", subject=subscription, time=time, data={"request_tokens": tokens})

    stream: list[bytes | None] = []
    for n in range(400):
        event, conflicting = made(n, n), made(n // 2, 1_000)
        stream.append(rng.choice([event, event, event, event, b"bad", None, conflicting]))
        if rng.random() < 0.2:
            stream.append(rng.choice(stream))
    workers, offset = [Ingest(ingest_pool), Ingest(ingest_pool)], 0
    while offset < len(stream):
        size = rng.randint(1, 60)
        worker = rng.choice(workers)
        await worker.apply(
            *(record(value, offset=offset + n) for n, value in enumerate(stream[offset : offset + size]))
        )
        offset += size
    one, other = workers
    one.published += other.published

    counts = await one.counts()
    distinct: dict[str, bytes] = {}
    for value in stream:
        if value is not None and isinstance(judge(value), UsageEvent):
            distinct.setdefault(json.loads(value)["id"], value)
    assert sum(counts.values()) == len(stream)
    assert counts["inserted"] == len(distinct)
    assert await one.adds_up()
    expected = {json.loads(value)["id"]: row_of(_event(value)).request_tokens for value in distinct.values()}
    assert {row["request_id"]: row["request_tokens"] for row in await one.stored()} == expected


def _event(value: bytes) -> UsageEvent:
    found = judge(value)
    assert isinstance(found, UsageEvent)
    return found


async def test_limits_are_those_that_were_set(ingest_pool: Pool, subscription: str) -> None:
    strict = Ingest(ingest_pool, limits=Limits(record_bytes=400, metadata_keys=1, late=timedelta(hours=1)))
    await strict.apply_values(
        structured(id="1", subject=subscription),
        structured(id="2", subject=subscription, data={"metadata": {"a": 1, "b": 2}}),
        structured(id="3", subject=subscription, time="2026-11-21T10:59:59Z"),
        structured(id="4", subject=subscription, data={"error_message": "x" * 400}),
    )

    assert [row["reason"] for row in await strict.quarantined()] == ["metadata_too_large", "too_old", "too_large"]


async def test_the_outbox_of_another_table_has_the_same_shape(database_pool: Pool) -> None:
    for table in ("ingest_outbox", "aggregator_outbox", "billing_outbox"):
        async with database_pool.acquire() as connection:
            assert await Outbox(table).waiting(connection) == (0, 0.0)
