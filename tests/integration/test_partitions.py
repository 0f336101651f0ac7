"""Months of the log: made ahead, archived only when nothing needs them, restored as they were; the books hold at every step.

Made ahead and restored alike, a month's table becomes a partition by attach_usage_partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.aggregator.rebuild import Scope, verify
from services.billing.rating.comparison import compare_with_log
from services.billing.reconciliation import reconcile
from services.ingest.acceptance import Reason
from services.ingest.log import UsageLog
from services.ingest.partitions import ahead, parquet, store
from services.ingest.partitions.archive import archive, read_manifest, restore
from services.ingest.partitions.holds import place_hold, release_hold
from services.ingest.partitions.manifest import Manifest, PartitionError
from services.ingest.recent import RecentEvents
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import NOON, NOVEMBER, OCTOBER, Customer, Desk, make_customer, make_price, usage
from tests.unit.ingest.facts import candidate

LATE = timedelta(days=35)
LATER = datetime(2027, 1, 10, tzinfo=UTC)
FILE = "usage_logs_2026_10.parquet"


@dataclass
class Log:
    """A database in which October was used, invoiced and paid, and November goes on."""

    pool: Pool
    connection: asyncpg.Connection
    desk: Desk
    customer: Customer
    directory: Path

    async def archive(self, month: Period = OCTOBER) -> Manifest:
        return await archive(self.connection, month, self.directory, now=LATER, late=LATE)

    async def rows(self) -> list[Any]:
        return await self.pool.fetch("SELECT * FROM usage_logs ORDER BY created_at, id")  # type: ignore[no-any-return]

    async def differing(self) -> list[str]:
        return [check.name for check in await reconcile(self.connection) if not check.holds]

    async def state(self) -> str | None:
        return await self.pool.fetchval("SELECT state FROM usage_archives")  # type: ignore[no-any-return]


@pytest.fixture
async def log(database: str, database_pool: Pool, tmp_path: Path) -> AsyncIterator[Log]:
    connection = await asyncpg.connect(database, server_settings={"TimeZone": "UTC"})
    await make_price(connection)
    customer, desk = await make_customer(connection), Desk(database_pool)
    prepaying = await make_customer(connection, billing_mode="prepaid")
    await connection.execute("SELECT add_user_credits($1, 100)", prepaying.user_id)
    odd: dict[str, Any] = {
        "metadata": '{"a": [1e23, "ü\\n"]}',
        "error_message": 'no\tsuch, "model"',
        "latency_ms": 7,
        "status_code": 500,
    }
    await desk.use(
        *(usage(customer.subscription_id, at=NOON + timedelta(minutes=n), request_tokens=1000 + n) for n in range(50)),
        usage(customer.subscription_id, at=OCTOBER.start, response_tokens=2**53 - 1),
        usage(customer.subscription_id, at=OCTOBER.end - timedelta(microseconds=1), **odd),
        usage(prepaying.subscription_id, at=NOON, request_tokens=5, cached_tokens=5, byok=True, feature_type="chat"),
        usage(customer.subscription_id, at=NOVEMBER.start, request_tokens=9),
    )
    await desk.settling.settle_all()
    await desk.close()
    await connection.execute("UPDATE invoices SET status = 'paid', paid_date = now()")
    yield Log(database_pool, connection, desk, customer, tmp_path / "archive")
    await connection.close()


async def test_an_archived_month_is_restored_as_it_was_and_the_books_hold_all_the_time(log: Log) -> None:
    before = await log.rows()
    assert await log.differing() == []
    manifest = await log.archive()
    assert (manifest.sums.rows, await log.state()) == (53, "archived")
    assert [row["created_at"] for row in await log.rows()] == [NOVEMBER.start]
    assert await log.pool.fetchval("SELECT to_regclass('usage_logs_2026_10')") is None
    assert await log.differing() == []
    restored, changed = await restore(log.connection, log.directory / FILE)
    assert (restored, changed, await log.state()) == (manifest, True, "restored")
    assert await log.rows() == before
    assert await log.differing() == []
    assert (await restore(log.connection, log.directory / FILE))[1] is False
    plan = await log.connection.fetch(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'usage_logs_2026_10'::regclass"
    )
    assert len(plan) == 2  # the key and the one by subscription, none twice


async def test_a_month_can_be_archived_again_after_it_was_restored(log: Log) -> None:
    first = await log.archive()
    await restore(log.connection, log.directory / FILE)
    again = await log.archive()
    assert (again.sums, again.digest) == (first.sums, first.digest)
    assert (await log.state(), await log.differing()) == ("archived", [])
    assert await log.archive() == again  # done before: said, not done again


class Killed(Exception):
    """The command died here."""


async def killed(*_: Any) -> None:
    raise Killed


async def test_a_file_that_cannot_be_written_leaves_the_month_open(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await log.rows()
    monkeypatch.setattr(parquet, "write", killed)
    with pytest.raises(Killed):
        await log.archive()
    assert (await log.rows(), await log.state(), await log.differing()) == (before, None, [])
    await log.desk.use(usage(log.customer.subscription_id, at=NOON))
    assert len(await log.rows()) == len(before) + 1


@pytest.mark.parametrize("step", ["note", "finish"])
async def test_an_interrupted_run_is_ended_by_the_next(log: Log, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = await log.rows()
    monkeypatch.setattr(store, step, killed)
    with pytest.raises(Killed):
        await log.archive()
    monkeypatch.undo()
    assert (await log.state(), await log.differing()) == ("archiving", [])
    with pytest.raises(asyncpg.PostgresError):  # nothing comes in between: closed, or no partition any more
        await log.desk.use(usage(log.customer.subscription_id, at=NOON))
    await log.archive()
    assert (await log.state(), await log.differing()) == ("archived", [])
    await restore(log.connection, log.directory / FILE)
    assert await log.rows() == before


async def test_a_detachment_that_was_killed_half_way_is_ended_by_the_next_run(
    log: Log, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, note, reader = await log.rows(), store.note, await asyncpg.connect(database)
    reading = reader.transaction(isolation="repeatable_read")

    async def note_while_somebody_reads(*arguments: Any) -> None:
        await note(*arguments)
        await reading.start()
        assert await reader.fetchval("SELECT count(*) FROM usage_logs") == len(before)

    monkeypatch.setattr(store, "note", note_while_somebody_reads)
    archiving = asyncio.create_task(log.archive())
    async with asyncio.timeout(20):
        while not (waiting := await log.pool.fetchval(WAITING)):
            assert not archiving.done()
    assert await reader.fetchval("SELECT count(*) FROM usage_logs") == len(before)
    assert await reader.fetchval("SELECT count(*) FROM archived_months") == 0
    assert await log.desk.differing() == []  # the snapshot of another session finds the month archived already
    await log.pool.execute("SELECT pg_cancel_backend($1)", waiting)
    with pytest.raises(asyncpg.QueryCanceledError):
        await archiving
    await reading.rollback()
    await reader.close()
    monkeypatch.undo()
    assert await store.place(log.connection, OCTOBER) == "detaching"
    with pytest.raises(PartitionError, match="was interrupted"):
        await restore(log.connection, log.directory / FILE)
    await log.archive()
    assert (await log.state(), await log.differing()) == ("archived", [])
    await restore(log.connection, log.directory / FILE)
    assert await log.rows() == before


async def test_a_month_that_is_read_for_long_is_not_waited_for(log: Log, database: str) -> None:
    reader = await asyncpg.connect(database)
    async with reader.transaction():
        await reader.fetchval("SELECT count(*) FROM usage_logs")
        with pytest.raises(PartitionError, match="reads it for long"):
            await log.archive()
    await reader.close()
    assert await log.state() is None


WAITING = """SELECT pid FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND query LIKE '%DETACH PARTITION%' AND datname = current_database()"""


async def hold_it(log: Log) -> None:
    await place_hold(log.connection, OCTOBER, "court order 7", log.customer.subscription_id)


OBSTACLES: dict[str, str | Callable[[Log], Awaitable[None]]] = {
    "court order 7": hold_it,
    "INV-2026-000001 (overdue)": "UPDATE invoices SET status = 'overdue', paid_date = NULL",
    "open or disputed": """UPDATE invoices SET disputed_at = now(), dispute_reason = 'wrong'""",
    "rated but not billed": "ALTER TABLE rated_usage DISABLE TRIGGER USER; UPDATE rated_usage SET settlement_id = NULL WHERE byok",
    "1 quarantined records": """
        INSERT INTO quarantined_events (id, reason, detail, cluster, topic, partition, epoch, record_offset, batch_id, quarantined_at)
        VALUES (gen_random_uuid(), 'conflict', '', 'main', 'usage.events', 0, 0, 0, gen_random_uuid(), '2026-11-20Z')""",
    "1 of its events are held": """
        INSERT INTO held_events (
            id, reason, subscription_id, occurred_at, cluster, topic, partition, epoch, record_offset, record_value, batch_id)
        VALUES (gen_random_uuid(), 'unknown_subscription', gen_random_uuid(), '2026-10-31T23:59Z',
                'main', 'usage.events', 0, 0, 0, '', gen_random_uuid())""",
    "have not been applied": "DELETE FROM billing_inbox",
}  # fmt: skip


@pytest.mark.parametrize("reason", OBSTACLES)
async def test_a_month_that_something_refers_to_stays_as_it_is(log: Log, reason: str) -> None:
    obstacle = OBSTACLES[reason]
    await (obstacle(log) if callable(obstacle) else log.connection.execute(obstacle))
    before = await log.rows()
    with pytest.raises(PartitionError) as caught:
        await log.archive()
    assert reason in str(caught.value)
    assert str(caught.value).startswith("usage of 2026-10 stays: ")
    assert (await log.rows(), await log.state()) == (before, None)
    assert not log.directory.exists()


async def test_a_released_hold_holds_no_more(log: Log) -> None:
    id_ = await place_hold(log.connection, OCTOBER, "court order 7", None)
    await place_hold(log.connection, NOVEMBER, "another month", None)
    with pytest.raises(PartitionError, match="legal hold"):
        await log.archive()
    await release_hold(log.connection, id_, "settled")
    with pytest.raises(PartitionError, match="no hold"):
        await release_hold(log.connection, id_, "again")
    assert (await log.archive()).sums.rows == 53
    with pytest.raises(PartitionError, match="there is no subscription"):
        await place_hold(log.connection, OCTOBER, "typo", uuid7())


async def test_a_month_whose_events_are_still_accepted_stays(log: Log) -> None:
    with pytest.raises(PartitionError, match="accepted until 2026-12-06"):
        await archive(log.connection, OCTOBER, log.directory, now=datetime(2026, 12, 5, tzinfo=UTC), late=LATE)


async def test_an_archived_month_is_not_made_anew(log: Log) -> None:
    await log.archive()
    assert await log.pool.fetchval("SELECT ensure_usage_partition($1)", NOON) is None
    assert await ahead.ensure(log.connection, datetime(2026, 10, 31, tzinfo=UTC), 3) == [
        "usage_logs_2026_11",
        "usage_logs_2026_12",
        "usage_logs_2027_01",
    ]


async def test_an_event_of_an_archived_month_is_refused_with_the_reason_and_its_neighbours_are_not(log: Log) -> None:
    usage_log = UsageLog(log.pool, RecentEvents(1_000))
    rows = [usage(log.customer.subscription_id, at=at) for at in (NOON, NOVEMBER.start)]
    async with transaction(log.pool) as connection:
        assert not (
            await usage_log.insert(connection, [candidate(row) for row in rows], rows[0].batch_id)
        ).refused  # both months are known now
    await log.connection.execute("DELETE FROM usage_logs WHERE batch_id = $1", rows[0].batch_id)
    await log.archive()
    later = [row._replace(id=uuid7()) for row in rows]
    for _ in range(2):  # the first time October is remembered, and the batch comes again
        with suppress(asyncpg.CheckViolationError):
            async with transaction(log.pool) as connection:
                inserted = await usage_log.insert(connection, [candidate(row) for row in later], uuid7())
    assert [stored.key for stored in inserted.stored] == [later[1].id.bytes]
    ((_, rejected),) = inserted.refused
    assert (rejected.reason, "2026-10 is archived: restore it" in rejected.detail) == (Reason.TOO_OLD, True)


async def test_nothing_is_rebuilt_from_an_archived_month(log: Log) -> None:
    await log.archive()
    findings = await verify(log.connection, Scope())
    assert (findings.archived, findings.events) == ([OCTOBER.start], 1)
    assert {d.kind for d in findings.differences} <= {"hour", "day", "month"}
    assert all(d.period_start >= NOVEMBER.start for d in findings.differences)
    assert await compare_with_log(log.connection, OCTOBER.start, NOVEMBER.end, None, limit=5) == (0, [])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


async def test_a_damaged_or_foreign_file_is_refused_and_nothing_changes(log: Log) -> None:
    manifest = await log.archive()
    path = log.directory / FILE
    beside = path.with_suffix(".manifest.json")
    whole, description = path.read_bytes(), beside.read_bytes()
    damage(path)
    with pytest.raises(PartitionError, match="damaged"):
        await restore(log.connection, path)
    path.write_bytes(whole)
    beside.write_text(description.decode().replace(manifest.sha256, "0" * 64))
    with pytest.raises(PartitionError, match="not the archive of 2026-10"):
        await restore(log.connection, path)
    beside.write_text("{}")
    with pytest.raises(PartitionError, match="not the manifest"):
        await restore(log.connection, path)
    beside.unlink()
    with pytest.raises(PartitionError, match="there is no file"):
        await restore(log.connection, path)
    beside.write_bytes(description)
    await log.connection.execute("DELETE FROM usage_archives")
    with pytest.raises(PartitionError, match="never archived from this database"):
        await restore(log.connection, path)
    assert await log.pool.fetchval("SELECT to_regclass('usage_logs_2026_10')") is None


async def test_the_file_tells_what_it_holds(log: Log) -> None:
    manifest = await log.archive()
    read = read_manifest(log.directory / FILE)
    assert read == manifest
    assert (read.sums.first_event_at, read.sums.last_event_at) == (
        OCTOBER.start,
        OCTOBER.end - timedelta(microseconds=1),
    )
    assert read.sums.response_tokens == 2**53 - 1
    assert parquet.sums(log.directory / FILE) == read.sums
