"""Refused records repaired by an operator: replayed through ingest's own path, once, or discarded; held ones expired."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from services.billing.reconciliation import reconcile
from services.ingest import holding, quarantine
from services.ingest.acceptance import Limits
from services.ingest.quarantine import Choice, Replay, Replayed
from shared.contracts import USAGE_RECORDED
from shared.errors import BrokenInvariant, ConfigurationError
from shared.ids import uuid7
from shared.outbox import Message
from shared.postgres import Pool, transaction
from tests.integration.aggregator_facts import make_subscription
from tests.integration.consumer_facts import ONE, ZERO, FakeBroker, assign, consumer_of
from tests.integration.ingest_facts import Ingest
from tests.unit.ingest.events import NOW, SUBSCRIPTION, record, structured

NARROW, WIDE = Limits(metadata_keys=1), Limits(metadata_keys=5)
LATE = (NOW - timedelta(days=90)).isoformat()
TWO_KEYS: dict[str, Any] = {"metadata": {"a": 1, "b": 2}}
AT_REST = (
    "positions = batches",
    "batches touch",
    "batches = log",
    "batches = quarantine",
    "batches = held",
    "replayed = batches",
)


@pytest_asyncio.fixture
async def ingest(database_pool: Pool) -> AsyncIterator[Ingest]:
    """A worker that refuses two keys of metadata, and a subscription that it knows."""
    await make_subscription(database_pool, id=UUID(SUBSCRIPTION))
    yield Ingest(database_pool, limits=NARROW)


async def replay(
    ingest: Ingest, choice: Choice | None = None, *, limits: Limits = WIDE, accept_late: bool = False
) -> tuple[Replayed, list[Message]]:
    """Replay as the command does, with other limits and a memory of its own."""
    parts = Ingest(ingest.pool, limits=limits).batch
    return await Replay(ingest.pool, parts, "ada", "limit raised", accept_late).run(choice or Choice())


async def came_now(pool: Pool) -> None:
    """Let everything in quarantine have come at the tests' time."""
    await pool.execute("UPDATE quarantined_events SET quarantined_at = $1", NOW)


async def differing(pool: Pool) -> list[str]:
    """What ingest's part of reconciliation finds wrong."""
    async with pool.acquire() as connection:
        checks = await reconcile(connection)
    return [check.name for check in checks if check.name.startswith(AT_REST) and not check.holds]


async def audited(pool: Pool) -> list[tuple[str, str]]:
    rows = await pool.fetch(
        "SELECT actor, action FROM audit_logs WHERE action ~ '^(quarantine|held)' ORDER BY created_at, action"
    )
    return [(row["actor"], row["action"]) for row in rows]


async def test_a_replayed_record_is_stored_announced_resolved_and_audited(ingest: Ingest) -> None:
    await ingest.apply_values(structured(id="good"), structured(id="wide", data=TWO_KEYS), b"{")
    assert await ingest.counts() == {"inserted": 1, "quarantined": 2}

    replayed, messages = await replay(ingest)

    assert (replayed.inserted, replayed.duplicates, replayed.refused_again) == (1, 0, {"not_json": 1})
    assert [m.topic for m in messages] == [USAGE_RECORDED]
    assert await ingest.waiting() == 1  # until somebody publishes it
    assert [row["request_id"] for row in await ingest.stored()] == ["good", "wide"]
    wide, broken = await ingest.quarantined()
    assert (wide["resolution"], wide["resolved_by"], wide["resolved_why"]) == ("replayed", "ada", "limit raised")
    assert (broken["resolution"], broken["reason"], broken["tried_at"] is None) == (None, "not_json", False)
    assert wide["resolved_batch_id"] == (await ingest.stored())[1]["batch_id"]
    assert await audited(ingest.pool) == [("ada", "quarantine.replayed")]
    assert await ingest.counts() == {"inserted": 1, "quarantined": 2}  # the position's account is of offsets: as it was
    assert await differing(ingest.pool) == []


async def test_replaying_again_adds_nothing(ingest: Ingest) -> None:
    await ingest.apply_values(structured(id="wide", data=TWO_KEYS))
    await replay(ingest)
    replayed, messages = await replay(ingest)
    assert (replayed.resolved, messages, len(await ingest.stored())) == (0, [], 1)


async def test_what_the_log_has_already_is_resolved_as_a_duplicate(ingest: Ingest) -> None:
    value = structured(id="twice", data=TWO_KEYS)
    await ingest.apply_values(value, value)
    replayed, _ = await replay(ingest)
    assert (replayed.inserted, replayed.duplicates) == (1, 1)
    assert await differing(ingest.pool) == []


async def test_an_id_that_was_stored_at_another_time_stays_a_conflict(ingest: Ingest) -> None:
    other_time = (NOW - timedelta(days=30)).isoformat()
    await ingest.apply_values(structured(id="same"), structured(id="same", time=other_time, data=TWO_KEYS))
    await came_now(ingest.pool)
    replayed, _ = await replay(ingest)
    assert (replayed.inserted, replayed.refused_again) == (0, {"conflict": 1})
    assert [q["reason"] for q in await ingest.quarantined()] == ["conflict"]
    assert await audited(ingest.pool) == [("ada", "quarantine.refused_again")]
    assert await differing(ingest.pool) == []


async def test_late_events_are_taken_in_by_word_only_and_months_between_are_not_made(ingest: Ingest) -> None:
    never_set = structured(id="1970", time="1970-01-01T00:00:00Z")
    await ingest.apply_values(
        structured(id="late", time=LATE), structured(id="later", time="2019-05-01T00:00:00Z"), never_set
    )
    await came_now(ingest.pool)
    assert (await replay(ingest))[0].refused_again == {"too_old": 3}

    replayed, _ = await replay(ingest, Choice(reason="too_old"), accept_late=True)

    assert (replayed.inserted, replayed.refused_again) == (2, {"too_old": 1})
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_logs'::regclass"
    assert await ingest.pool.fetchval(partitions) <= 5
    assert await differing(ingest.pool) == []


async def test_a_late_event_of_an_archived_month_stays_open_until_that_is_restored(ingest: Ingest) -> None:
    await ingest.apply_values(structured(id="late", time=LATE))
    await ingest.pool.execute(
        "INSERT INTO usage_archives (month, state) VALUES (date_trunc('month', $1::text::timestamptz, 'UTC'), 'archiving')",
        LATE,
    )
    replayed, _ = await replay(ingest, accept_late=True)
    assert (replayed.inserted, replayed.refused_again) == (0, {"too_old": 1})
    assert "tallystick partitions restore" in (await ingest.quarantined())[0]["detail"]

    await ingest.pool.execute("DELETE FROM usage_archives")
    assert (await replay(ingest, accept_late=True))[0].inserted == 1
    assert await differing(ingest.pool) == []


async def test_a_replayed_event_of_an_unknown_subscription_is_held_and_attributed_later(ingest: Ingest) -> None:
    stranger = uuid7()
    await ingest.apply_values(structured(id="s", subject=str(stranger), data=TWO_KEYS))
    replayed, messages = await replay(ingest)
    assert (replayed.held, messages) == (1, [])
    await make_subscription(ingest.pool, id=stranger)
    ingest.batch.limits = WIDE
    await ingest.attribute()
    assert [row["request_id"] for row in await ingest.stored()] == ["s"]
    assert await differing(ingest.pool) == []


async def test_replays_side_by_side_store_each_event_once(ingest: Ingest) -> None:
    await ingest.apply_values(*(structured(id=f"e{n % 150}", data=TWO_KEYS) for n in range(200)))
    results = await asyncio.gather(*(replay(ingest) for _ in range(3)))
    assert sum(replayed.inserted for replayed, _ in results) == 150
    assert len(await ingest.stored()) == 150
    assert await differing(ingest.pool) == []


async def test_a_replay_of_chosen_ids_leaves_the_others(ingest: Ingest) -> None:
    await ingest.apply_values(structured(id="a", data=TWO_KEYS), structured(id="b", data=TWO_KEYS))
    first, _ = await ingest.quarantined()
    await replay(ingest, Choice(ids=(first["id"],)))
    assert [row["request_id"] for row in await ingest.stored()] == ["a"]


async def test_discarded_records_are_kept_but_never_replayed(ingest: Ingest) -> None:
    await ingest.apply_values(b"{", structured(id="wide", data=TWO_KEYS))
    async with transaction(ingest.pool) as connection:
        assert await quarantine.discard(connection, Choice(reason="not_json"), actor="ada", why="a test gateway") == 1
    replayed, _ = await replay(ingest)
    assert (replayed.resolved, replayed.refused_again) == (1, {})
    assert [q["resolution"] for q in await ingest.quarantined()] == ["discarded", "replayed"]
    assert await audited(ingest.pool) == [("ada", "quarantine.discarded"), ("ada", "quarantine.replayed")]
    assert await differing(ingest.pool) == []


async def test_a_choice_of_what_is_not_there_is_an_error_that_names_it(ingest: Ingest) -> None:
    unknown = uuid7()
    async with ingest.pool.acquire() as connection:
        with pytest.raises(ConfigurationError, match="there is no reason 'bogus'; there are tombstone"):
            await quarantine.check_choice(connection, Choice(reason="bogus"))
        with pytest.raises(ConfigurationError, match=f"not in quarantine: {unknown}"):
            await quarantine.check_choice(connection, Choice(ids=(unknown,)))


async def test_nobody_resolves_without_a_name_and_a_reason(ingest: Ingest) -> None:
    await ingest.apply_values(b"{")
    with pytest.raises(asyncpg.CheckViolationError):
        await ingest.pool.execute("UPDATE quarantined_events SET resolution = 'discarded', resolved_at = now()")


# Held events


async def test_an_expired_event_is_kept_and_never_attributed(ingest: Ingest) -> None:
    stranger = uuid7()
    await ingest.apply_values(structured(id="s", subject=str(stranger)), structured(id="t", subject=str(stranger)))
    async with ingest.pool.acquire() as connection:
        (owner,) = await holding.count_waiting(connection)
        assert (owner.subscription_id, owner.events) == (stranger, 2)
        first, second = await holding.list_waiting(connection, 10)
    async with transaction(ingest.pool) as connection:
        assert await holding.expire(connection, [first.id], actor="ada", why="tests of a gateway") == 1
        assert await holding.expire(connection, [first.id], actor="ada", why="again") == 0
    await make_subscription(ingest.pool, id=stranger)
    await ingest.attribute()
    assert len(await ingest.stored()) == 1
    expired, attributed = await ingest.held()
    assert (expired["attributed_at"], expired["expired_by"], attributed["expired_at"]) == (None, "ada", None)
    assert await audited(ingest.pool) == [("ada", "held.expired")]
    assert (await differing(ingest.pool), second.id) == ([], attributed["id"])


# Dead letters


async def test_a_crash_between_commit_and_publishing_loses_no_dead_letter(ingest: Ingest) -> None:
    """The worker dies after COMMIT; another one publishes what it left, perhaps twice: `tallystick_id` tells doubles."""
    await ingest.commit([record(b"{", offset=0), record(None, offset=1)])  # what follows COMMIT never runs
    before = await ingest.quarantined()
    assert (len(before), ingest.letters(), await ingest.waiting()) == (2, [], 2)

    await ingest.pool.execute("UPDATE ingest_outbox SET created_at = created_at - interval '1 minute'")
    ingest.restart()
    ingest.refuse = ConnectionError("the broker took them, and its answer was lost")
    with pytest.raises(ConnectionError):
        await ingest.publishing.leftovers()
    ingest.refuse = None
    await ingest.publishing.leftovers()

    letters = ingest.letters()
    assert [m.headers["tallystick_id"] for m in letters] == [str(row["id"]) for row in before]
    assert [(m.value, m.headers["tallystick_offset"]) for m in letters] == [(b"{", "0"), (None, "1")]
    assert (await ingest.quarantined(), await ingest.waiting()) == (before, 0)


# Limits


async def test_a_flood_of_refusals_halts_before_anything_of_it_is_committed(ingest: Ingest) -> None:
    good, bad = structured(id="good"), b"not JSON"
    await ingest.apply_values(good, *[bad] * 5)
    with pytest.raises(BrokenInvariant, match=r"usage\.events\[0\] at offset 6: .*not_json 2,000"):
        await ingest.apply(*(record(bad, offset=6 + n) for n in range(2_000)))
    assert await ingest.counts() == {"inserted": 1, "quarantined": 5}
    assert len(await ingest.quarantined()) == 5

    lenient = dataclasses.replace(
        ingest.batch.refusals.limits, percent=0, in_a_row=0
    )  # an operator's word, and a restart
    ingest.restart()
    ingest.batch.refusals.limits = lenient
    await ingest.apply(*(record(bad, offset=6 + n) for n in range(2_000)))

    assert await ingest.counts() == {"inserted": 1, "quarantined": 2_005}
    assert await differing(ingest.pool) == []


async def test_a_replayed_topic_does_not_halt(ingest: Ingest) -> None:
    values = [structured(id=f"e{n}") for n in range(1_200)]
    await ingest.apply_values(*values)
    conflicting = [structured(id=f"e{n}", data={"request_tokens": 11}) for n in range(1_200)]
    await ingest.apply_values(*values)
    await ingest.apply_values(*conflicting)
    assert await ingest.counts() == {"inserted": 1_200, "duplicates": 1_200, "quarantined": 1_200}


async def test_a_halted_partition_says_on_readyz_what_to_do_while_its_neighbour_runs(ingest: Ingest) -> None:
    broker = FakeBroker(end={ZERO: 1_000, ONE: 1})
    consumer = consumer_of(ingest.pool, broker, ingest.batch)  # type: ignore[arg-type]  # ingest in place of the test's own
    await assign(consumer, broker, ZERO, ONE)

    flood = [record(b"not JSON", offset=n) for n in range(1_000)]
    await consumer.consume([*flood, record(structured(), offset=0, partition=1)])
    await consumer.settle()

    assert consumer.not_ready is not None  # what /readyz answers with 503
    assert consumer.not_ready.startswith("usage.events[0] halted: ")
    assert "restart the workers: see docs/how-to/repair-refused-events.md" in consumer.not_ready
    assert (await ingest.counts(0), await ingest.counts(1)) == ({}, {"inserted": 1})
    assert await ingest.quarantined() == []
