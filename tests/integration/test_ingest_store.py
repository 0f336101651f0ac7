"""The usage log: each event once, whatever comes again, and no row harmed by its neighbours."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.ingest.acceptance import Reason
from services.ingest.log import Inserted, UsageLog
from services.ingest.recent import RecentEvents
from services.ingest.rows import UsageRow
from services.ingest.store import Counts, advance_position, headers_json, headers_of_json, record_batch
from shared.contracts import Origin, UsageEvent
from shared.errors import BrokenInvariant
from shared.ids import uuid7
from shared.positions import Positions
from shared.postgres import Pool, transaction
from tests.unit.ingest.events import NOW, judge, structured
from tests.unit.ingest.facts import candidate, row_of, some_row

rng = random.Random(5)


def event_row(number: int, *, batch: UUID | None = None, **columns: Any) -> UsageRow:
    """The row of event `number`, in a batch of its own."""
    found = judge(structured(id=f"req-{number}", data={"metadata": {"n": number, "rate": 1e23}}))
    assert isinstance(found, UsageEvent)
    return row_of(found)._replace(batch_id=batch or uuid7(), **columns)


class Log:
    """A usage log with the window of a worker."""

    def __init__(self, pool: Pool, *, remembered: int = 1_000) -> None:
        self.pool, self.recent = pool, RecentEvents(remembered)
        self.log = UsageLog(pool, self.recent)

    async def insert(self, *rows: UsageRow) -> Inserted:
        async with transaction(self.pool) as connection:
            candidates = [candidate(row, offset=n) for n, row in enumerate(rows)]
            result = await self.log.insert(connection, candidates, rows[0].batch_id if rows else uuid7())
        self.recent.remember(stored.key for stored in result.stored)
        assert len(result.stored) + result.duplicates + len(result.refused) == len(rows)
        return result

    async def count(self) -> int:
        return int(await self.pool.fetchval("SELECT count(*) FROM usage_logs"))


@pytest.fixture
def log(ingest_pool: Pool) -> Log:
    return Log(ingest_pool)


def outcome(result: Inserted) -> tuple[int, int, list[Reason]]:
    return len(result.stored), result.duplicates, [rejected.reason for _, rejected in result.refused]


async def test_new_events_are_stored_as_they_are(log: Log) -> None:
    row = event_row(
        1, end_user="a\\\t\n\r\x01é\U0001f600", error_message="\\N", metadata='{"a":"\\\\u0000","b":[1e300,-5]}'
    )
    assert outcome(await log.insert(row, event_row(2))) == (2, 0, [])

    stored = dict(await log.pool.fetchrow("SELECT * FROM usage_logs WHERE request_id = 'req-1'"))
    for name in UsageRow._fields:
        if name != "metadata":
            assert stored[name] == getattr(row, name), name
    assert stored["total_tokens"] == 15


async def test_nothing_is_stored_for_nothing(log: Log) -> None:
    assert outcome(await log.insert()) == (0, 0, [])


async def test_a_resend_in_the_same_batch_is_a_duplicate(log: Log) -> None:
    assert outcome(await log.insert(event_row(1), event_row(1), event_row(2), event_row(1))) == (2, 2, [])
    assert await log.count() == 2


async def test_a_resend_of_an_earlier_batch_is_a_duplicate(log: Log) -> None:
    await log.insert(event_row(1), event_row(2))

    assert outcome(await log.insert(event_row(2), event_row(3), event_row(1))) == (1, 2, [])


async def test_a_resend_that_the_window_forgot_is_a_duplicate(log: Log, ingest_pool: Pool) -> None:
    await log.insert(*map(event_row, range(20)))

    restarted = Log(ingest_pool)
    assert outcome(await restarted.insert(*map(event_row, range(10, 30)), event_row(12))) == (10, 11, [])
    assert await log.count() == 30


async def test_a_batch_of_nothing_but_forgotten_events_adds_nothing(log: Log, ingest_pool: Pool) -> None:
    await log.insert(*map(event_row, range(20)))

    assert outcome(await Log(ingest_pool).insert(*map(event_row, range(20)))) == (0, 20, [])


async def test_a_window_that_remembers_what_the_database_lost_does_not_lose_it(log: Log) -> None:
    """As after a failover to a server that lagged: positions and rows went back together, the worker's memory did not."""
    await log.insert(*map(event_row, range(2_000)))
    await log.pool.execute("TRUNCATE usage_logs, usage_ids")

    assert outcome(await log.insert(*map(event_row, range(2_000)), event_row(7), event_row(7))) == (2_000, 2, [])
    assert await log.count() == 2_000


@pytest.mark.parametrize("remembered", [True, False])
async def test_the_same_id_with_another_body_is_a_conflict(log: Log, ingest_pool: Pool, remembered: bool) -> None:
    await log.insert(event_row(1))
    again = log if remembered else Log(ingest_pool)

    result = await again.insert(event_row(1, request_tokens=99, model_id="o"), event_row(2))

    assert outcome(result) == (1, 0, [Reason.CONFLICT])
    [(_, rejected)] = result.refused
    assert "request_tokens: 10 was stored, 99 came" in rejected.detail
    assert "model_id: gpt-4o was stored, o came" in rejected.detail
    assert "send a new id for new usage" in rejected.detail
    assert await ingest_pool.fetchval("SELECT request_tokens FROM usage_logs WHERE request_id = 'req-1'") == 10


@pytest.mark.parametrize("remembered", [True, False])
async def test_the_same_id_at_another_time_is_a_conflict_at_any_age(
    log: Log, ingest_pool: Pool, remembered: bool
) -> None:
    first, year_ago = event_row(1), NOW - timedelta(days=399)
    assert outcome(await log.insert(first, event_row(1, created_at=year_ago))) == (1, 0, [Reason.CONFLICT])
    again = log if remembered else Log(ingest_pool)

    result = await again.insert(event_row(1, created_at=year_ago), event_row(1))

    assert outcome(result) == (0, 1, [Reason.CONFLICT])
    detail = result.refused[0][1].detail
    assert f"created_at: {first.created_at.isoformat()} was stored, {year_ago.isoformat()} came" in detail
    assert await log.count() == 1


async def test_the_same_id_of_another_subscription_is_a_conflict(log: Log, ingest_pool: Pool) -> None:
    await log.insert(event_row(1))

    result = await Log(ingest_pool).insert(event_row(1, subscription_id=UUID(int=9)), event_row(2))

    assert outcome(result) == (1, 0, [Reason.CONFLICT])
    assert (
        f"subscription_id: {event_row(1).subscription_id} was stored, {UUID(int=9)} came" in result.refused[0][1].detail
    )


async def test_two_workers_that_store_one_id_at_two_times_at_once_store_it_once(ingest_pool: Pool) -> None:
    one, other = Log(ingest_pool), Log(ingest_pool)
    async with ingest_pool.acquire() as first, ingest_pool.acquire() as second:
        tx = first.transaction()
        await tx.start()
        await one.log.insert(first, [candidate(event_row(n)) for n in range(20)], uuid7())
        moved = [event_row(n, created_at=NOW - timedelta(days=60)) for n in reversed(range(10, 30))]

        async def overlap() -> Inserted:
            async with second.transaction():
                return await other.log.insert(second, [candidate(row) for row in moved], uuid7())

        waiting = asyncio.create_task(overlap())
        while not await ingest_pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            pass
        await tx.commit()
        result = await waiting

    assert (len(result.stored), result.duplicates, len(result.refused)) == (10, 0, 10)
    assert {rejected.reason for _, rejected in result.refused} == {Reason.CONFLICT}
    assert await one.count() == 30


async def test_two_bodies_under_a_new_id_in_one_batch_are_one_event_and_a_conflict(log: Log) -> None:
    result = await log.insert(event_row(1), event_row(1, byok=True), event_row(1))

    assert outcome(result) == (1, 1, [Reason.CONFLICT])
    assert result.stored[0].event.data.byok is False


BAD: list[dict[str, Any]] = [
    {"status_code": 600},
    {"cached_tokens": 11},
    {"end_user": "a\0b"},
    {"end_user": "\ud800"},
    {"metadata": "{"},
    {"request_tokens": 2**53},
    {"model_id": None},
]


@pytest.mark.parametrize("bad", BAD, ids=[next(iter(columns)) for columns in BAD])
async def test_a_row_that_postgres_refuses_is_found_among_good_ones(log: Log, bad: dict[str, Any]) -> None:
    rows = [event_row(n, **(bad if n == 11 else {})) for n in range(32)]

    result = await log.insert(*rows)

    assert outcome(result) == (31, 0, [Reason.REFUSED_BY_DATABASE])
    [(record, rejected)] = result.refused
    assert record.offset == 11
    assert rejected.detail.startswith("Postgres refused a value: ")
    assert "\n" not in rejected.detail
    assert await log.count() == 31


async def test_refused_duplicate_and_new_rows_in_one_batch_are_told_apart(log: Log, ingest_pool: Pool) -> None:
    await log.insert(*map(event_row, range(5)))
    rows = [
        *map(event_row, range(10)),
        event_row(20, status_code=600),
        event_row(20),  # the first of this id was refused: this one is new
        event_row(21, status_code=600),
        event_row(21, status_code=601),
        event_row(3, model_id="o"),
    ]

    for again in (log, Log(ingest_pool)):
        async with ingest_pool.acquire() as connection:
            tx = connection.transaction()
            await tx.start()
            result = await again.log.insert(
                connection, [candidate(row, offset=n) for n, row in enumerate(rows)], uuid7()
            )
            await tx.rollback()
        refused = sorted((record.offset, str(rejected.reason)) for record, rejected in result.refused)
        assert len(result.stored) == 6
        assert result.duplicates == 5
        assert refused == [
            (10, "refused_by_database"),
            (12, "refused_by_database"),
            (13, "refused_by_database"),
            (14, "conflict"),
        ]


async def test_a_missing_partition_is_made_and_one_that_was_taken_away_is_made_again(log: Log) -> None:
    old = datetime(2019, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    async with log.pool.acquire() as connection:
        await connection.execute("DROP TABLE IF EXISTS usage_logs_2019_12, usage_logs_2020_01, usage_logs_2020_02")

    times = [old, old + timedelta(microseconds=1), old + timedelta(days=40)]
    rows = [event_row(n, created_at=at) for n, at in enumerate(times)]
    assert outcome(await log.insert(*rows)) == (3, 0, [])
    names = await log.pool.fetch("SELECT DISTINCT tableoid::regclass::text AS name FROM usage_logs ORDER BY 1")
    assert [row["name"] for row in names] == ["usage_logs_2019_12", "usage_logs_2020_01", "usage_logs_2020_02"]

    await log.pool.execute("DROP TABLE usage_logs_2020_01")
    again = event_row(4, created_at=old + timedelta(days=1))
    with pytest.raises(asyncpg.CheckViolationError):
        await log.insert(again)  # the worker remembered it; the batch fails, nothing is refused
    assert outcome(await log.insert(again)) == (1, 0, [])


async def test_two_workers_that_store_the_same_events_at_once_store_them_once(ingest_pool: Pool) -> None:
    one, other = Log(ingest_pool), Log(ingest_pool)
    async with ingest_pool.acquire() as first, ingest_pool.acquire() as second:
        tx = first.transaction()
        await tx.start()
        await one.log.insert(first, [candidate(event_row(n)) for n in range(50)], uuid7())

        async def overlap() -> Inserted:
            async with second.transaction():
                return await other.log.insert(second, [candidate(event_row(n)) for n in range(25, 75)], uuid7())

        waiting = asyncio.create_task(overlap())
        while not await ingest_pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            pass
        await tx.commit()
        result = await waiting

    assert (len(result.stored), result.duplicates) == (25, 25)
    assert await one.count() == 75


def generated(number: int) -> Sequence[UsageRow]:
    return [some_row(rng, metadata='{"a":1e23}', source=f"s-{n}") for n in range(number)]


async def test_any_rows_split_into_any_batches_are_stored_once(ingest_pool: Pool) -> None:
    rows = [row._replace(cached_tokens=0) for row in generated(300)]
    sent = [*rows, *rng.choices(rows, k=300)]
    rng.shuffle(sent)
    log, stored, duplicates = Log(ingest_pool, remembered=40), 0, 0
    while sent:
        size = rng.randint(1, 90)
        batch, sent = sent[:size], sent[size:]
        result = await log.insert(*batch)
        stored, duplicates = stored + len(result.stored), duplicates + result.duplicates
        assert result.refused == []

    assert (stored, duplicates, await log.count()) == (300, 300, 300)


# --- positions and headers --------------------------------------------------------------------------------------------

ORIGIN = Origin("main", "usage.events", 0, 0, 0, 10)


async def test_a_sum_that_is_off_cannot_be_stored(ingest_pool: Pool) -> None:
    async with ingest_pool.acquire() as connection:
        await Positions("ingest_positions", cluster="main").create(connection, "usage.events", 0, 0)
        for counts in (Counts(9), Counts(5, 3, 2, 1), Counts(11, gaps=-1)):
            with pytest.raises(asyncpg.CheckViolationError):
                await advance_position(connection, ORIGIN, counts)
            with pytest.raises(asyncpg.CheckViolationError):
                await record_batch(connection, uuid7(), "kafka", ORIGIN, counts, message_count=1)

        await advance_position(connection, ORIGIN, Counts(4, 3, 1, 1, 1))
        with pytest.raises(BrokenInvariant, match="was not at 0 although its row was locked"):
            await advance_position(connection, ORIGIN, Counts(10))


async def test_rows_without_an_announcement_cannot_be_stored(ingest_pool: Pool) -> None:
    for counts, messages in ((Counts(10), 0), (Counts(0, 10), 1)):
        with pytest.raises(asyncpg.CheckViolationError, match="rows_are_announced"):
            async with ingest_pool.acquire() as connection:
                await record_batch(connection, uuid7(), "kafka", ORIGIN, counts, message_count=messages)


def test_headers_survive_as_json() -> None:
    headers = [("a", b"\xff\x00"), ("a", None), ("", b""), ("é\U0001f600", b"1")]

    assert headers_of_json(headers_json(headers)) == headers
    assert headers_of_json(headers_json([("a\0b", b"1")])) == [("a\\u0000b", b"1")], "jsonb holds no NUL"
