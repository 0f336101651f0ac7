"""Void and amend: rows that sum with their original, each original taken back once, whatever order things come in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from services.ingest.acceptance import Limits, Reason
from services.ingest.partitions.ahead import IdentityGenerations
from services.ingest.quarantine import Choice, Replay
from shared.clock import FixedClock
from shared.contracts import UsageRecorded
from shared.ids import event_id, uuid7
from shared.postgres import Pool, create_pool
from tests.integration.aggregator_facts import make_subscription
from tests.integration.ingest_facts import Ingest
from tests.unit.ingest.events import NOW, amend, document, record, structured, void

SOURCE = str(document()["source"])
EARLIER = "2026-11-20T10:15:00Z"


@pytest_asyncio.fixture
async def ingest(ingest_pool: Pool) -> Ingest:
    return Ingest(ingest_pool)


@pytest_asyncio.fixture
async def subscription(ingest_pool: Pool) -> str:
    return str(await make_subscription(ingest_pool))


async def sums(ingest: Ingest) -> dict[str, int]:
    """What the log comes to, without zeros."""
    row = await ingest.pool.fetchrow(
        """SELECT coalesce(sum(quantity), 0) AS requests, coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0) AS errors,
                  coalesce(sum(request_tokens), 0)::bigint AS request_tokens, coalesce(sum(response_tokens), 0)::bigint AS response_tokens,
                  coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens, coalesce(sum(tokens_returned), 0)::bigint AS tokens_returned,
                  coalesce(sum(quantity * latency_ms), 0) AS latency_sum_ms
           FROM usage_logs"""
    )
    return {name: count for name, count in row.items() if count}


def announced(messages: Sequence[UsageRecorded]) -> dict[str, int]:
    """What the deltas come to, in the same words."""
    names = (
        "requests",
        "errors",
        "request_tokens",
        "response_tokens",
        "cached_tokens",
        "tokens_returned",
        "latency_sum_ms",
    )
    totals = {name: sum(getattr(d, name) for m in messages for d in m.deltas) for name in names}
    return {name: count for name, count in totals.items() if count}


async def reasons(ingest: Ingest) -> list[str]:
    return [row["reason"] for row in await ingest.quarantined()]


FULL = {
    "request_tokens": 100,
    "cached_tokens": 40,
    "response_tokens": 7,
    "tokens_returned": 3,
    "latency_ms": 900,
    "status_code": 429,
}


async def test_a_void_leaves_a_row_that_takes_the_original_back_where_it_counted(
    ingest: Ingest, subscription: str
) -> None:
    await ingest.apply_values(structured(id="a", subject=subscription, time=EARLIER, data={**FULL, "end_user": "u"}))
    await ingest.apply_values(void("a", time="2026-11-21T11:00:00Z"))

    original, reversal = await ingest.stored()
    assert (reversal["quantity"], reversal["corrects"], reversal["request_id"]) == (-1, original["id"], "void-1")
    assert reversal["corrected_at"].isoformat() == "2026-11-21T11:00:00+00:00"
    same = (
        "created_at",
        "subscription_id",
        "model_id",
        "status_code",
        "end_user",
        "latency_ms",
        "source",
        "power_level",
        "metadata",
    )
    assert [reversal[name] for name in same] == [original[name] for name in same]
    negated = ("request_tokens", "response_tokens", "cached_tokens", "total_tokens", "tokens_returned")
    assert [reversal[name] for name in negated] == [-original[name] for name in negated]
    assert await sums(ingest) == announced(ingest.recorded()) == {}
    added, taken = (message.deltas[0] for message in ingest.recorded())
    assert (taken.requests, taken.errors, taken.reversals, taken.rows, taken.latency_count) == (-1, -1, 1, 1, -1)
    assert taken.latency_histogram == [-count for count in added.latency_histogram]
    assert (taken.hour, taken.status_class, taken.first_event_at) == (added.hour, 4, original["created_at"])
    assert ingest.recorded()[1].providers == []
    assert await ingest.counts() == {"inserted": 2}
    assert await ingest.adds_up()


async def test_an_amendment_takes_back_and_replaces_in_the_hour_of_the_original(
    ingest: Ingest, subscription: str
) -> None:
    other = str(await make_subscription(ingest.pool))
    await ingest.apply_values(structured(id="a", subject=subscription, time=EARLIER, data=FULL))
    await ingest.apply_values(amend("a", subject=other, data={"model": "o", "request_tokens": 9}))

    rows = {(row["request_id"], row["quantity"]): row for row in await ingest.stored()}
    original, replacement = rows["a", 1], rows["amend-1", 1]
    assert rows["amend-1", -1]["subscription_id"] == UUID(subscription)
    assert (replacement["id"], replacement["corrects"]) == (event_id(SOURCE, "amend-1"), original["id"])
    assert (replacement["created_at"], replacement["subscription_id"]) == (original["created_at"], UUID(other))
    assert (replacement["model_id"], replacement["request_tokens"], replacement["response_tokens"]) == ("o", 9, 5)
    assert (
        await sums(ingest) == announced(ingest.recorded()) == {"requests": 1, "request_tokens": 9, "response_tokens": 5}
    )
    assert await ingest.counts() == {"inserted": 2}
    batch = await ingest.pool.fetchrow("SELECT inserted, amended FROM usage_batches ORDER BY batch_id DESC LIMIT 1")
    assert tuple(batch) == (1, 1)
    assert await ingest.adds_up()


@pytest.mark.parametrize("order", [("event", "void"), ("void", "event")])
async def test_a_void_finds_its_original_in_the_same_batch_in_either_order(
    ingest: Ingest, subscription: str, order: tuple[str, str]
) -> None:
    values = {"event": structured(id="a", subject=subscription), "void": void("a")}
    await ingest.apply_values(*(values[name] for name in order))

    assert await sums(ingest) == {}
    [message] = ingest.recorded()
    [delta] = message.deltas
    assert (delta.requests, delta.reversals, delta.rows, message.event_count) == (0, 1, 2, 2)
    assert await ingest.adds_up()


@pytest.mark.parametrize("again", [void("a"), amend("a", data=FULL)], ids=["void", "amend"])
async def test_a_correction_that_comes_again_is_a_duplicate(ingest: Ingest, subscription: str, again: bytes) -> None:
    again = again.replace(document()["subject"].encode(), subscription.encode())
    await ingest.apply_values(structured(id="a", subject=subscription), again, again)
    await ingest.apply_values(again)
    ingest.restart()
    await ingest.apply_values(again)

    assert await ingest.counts() == {"inserted": 2, "duplicates": 3}
    assert await ingest.adds_up()


async def test_an_event_is_taken_back_once_whoever_asks_again(ingest: Ingest, subscription: str) -> None:
    await ingest.apply_values(structured(id="a", subject=subscription), void("a"), void("a", id="void-2"))
    await ingest.apply_values(amend("a", subject=subscription), void("a", id="void-3"))

    assert await reasons(ingest) == [Reason.ALREADY_VOIDED] * 3
    assert "a was taken back already, by void-1" in (await ingest.quarantined())[0]["detail"]
    assert await sums(ingest) == {}


async def test_a_replacement_may_be_corrected_further_by_its_own_id(ingest: Ingest, subscription: str) -> None:
    first = amend("a", id="b", subject=subscription, data={"request_tokens": 2})
    second = amend("b", id="c", subject=subscription, data={"request_tokens": 3})
    await ingest.apply_values(second, first, structured(id="a", subject=subscription, time=EARLIER))

    assert await sums(ingest) == {"requests": 1, "request_tokens": 3, "response_tokens": 5}
    await ingest.apply_values(void("c"))
    assert await sums(ingest) == {}
    assert {row["created_at"].isoformat() for row in await ingest.stored()} == {"2026-11-20T10:15:00+00:00"}
    assert await ingest.adds_up()


async def test_a_void_cannot_be_taken_back(ingest: Ingest, subscription: str) -> None:
    await ingest.apply_values(structured(id="a", subject=subscription), void("a"), void("void-1", id="void-2"))

    assert await reasons(ingest) == [Reason.NOT_VOIDABLE]
    assert await sums(ingest) == {}


async def test_an_id_is_one_event_or_one_correction(ingest: Ingest, subscription: str) -> None:
    """Same identity, other meaning: whoever came first stays."""
    a, b = structured(id="a", subject=subscription), structured(id="b", subject=subscription)
    await ingest.apply_values(a, b, void("a", id="x"))
    await ingest.apply_values(
        structured(id="x", subject=subscription),
        void("b", id="x"),
        void("a", id="x", time=EARLIER),
        amend("b", id="x", subject=subscription),
        void("a", id="b"),
    )

    assert await reasons(ingest) == [Reason.CONFLICT] * 5
    assert (await sums(ingest))["requests"] == 1


async def test_a_void_in_the_name_of_another_subscription_is_refused(ingest: Ingest, subscription: str) -> None:
    await ingest.apply_values(structured(id="a", subject=subscription), void("a", subject=str(uuid7())))
    await ingest.apply_values(void("a", subject=subscription.upper()))

    assert await reasons(ingest) == [Reason.KEY_MISMATCH]
    assert await sums(ingest) == {}


async def test_a_correction_waits_for_its_original_and_is_applied_by_whoever_sees_it(
    ingest: Ingest, subscription: str
) -> None:
    other = Ingest(ingest.pool)
    await ingest.apply(record(void("a"), partition=0), record(amend("b", subject=subscription), partition=0, offset=1))
    assert await ingest.counts() == {"held": 2}
    assert {row["original_id"] for row in await ingest.held()} == {event_id(SOURCE, name) for name in "ab"}
    assert {row["reason"] for row in await ingest.held()} == {"unknown_original"}
    await other.attribute()
    assert await sums(ingest) == {}

    values = [structured(id=name, subject=subscription, data=FULL) for name in "ab"]
    await ingest.apply(*(record(value, partition=1, offset=n) for n, value in enumerate(values)))
    await other.attribute()

    assert await sums(ingest) == {"requests": 1, "request_tokens": 10, "response_tokens": 5}
    ingest.published += other.published
    assert await ingest.adds_up()
    assert all(row["attributed_batch_id"] for row in await ingest.held())


async def test_an_amendment_waits_for_its_subscription_and_its_original(ingest: Ingest, subscription: str) -> None:
    later = uuid7()
    await ingest.apply_values(amend("a", subject=str(later)))
    await make_subscription(ingest.pool, id=later)
    await ingest.attribute()
    assert await ingest.stored() == []

    await ingest.apply_values(structured(id="a", subject=subscription))
    await ingest.attribute()

    assert {(row["subscription_id"], row["quantity"]) for row in await ingest.stored()} == {
        (UUID(subscription), 1), (UUID(subscription), -1), (later, 1),
    }  # fmt: skip


async def test_a_void_of_an_event_that_is_held_itself_follows_it_into_the_log(ingest: Ingest) -> None:
    later = uuid7()
    await ingest.apply_values(structured(id="a", subject=str(later)), void("a"))
    assert await ingest.counts() == {"held": 2}
    await make_subscription(ingest.pool, id=later)

    await ingest.attribute()
    await ingest.attribute()

    assert [row["quantity"] for row in await ingest.stored()] == [1, -1]
    assert await sums(ingest) == {}
    assert await ingest.adds_up()


async def test_a_refused_original_is_taken_back_when_it_is_replayed(ingest: Ingest, subscription: str) -> None:
    """As is a correction that was refused itself: both go through the same path."""
    other = uuid7()
    await ingest.apply_values(structured(id="a", subject=subscription), void("a", subject=str(other)))
    await ingest.apply_values(
        structured(id="b", subject=subscription, data={"cached_tokens": 11}), void("b", id="void-2")
    )
    await ingest.pool.execute(
        "UPDATE quarantined_events SET record_value = convert_to(replace(replace(convert_from(record_value, 'UTF8'), $1, $2), '11}', '9}'), 'UTF8')",
        str(other),
        subscription,
    )  # as if ingest had been mended

    replayed, _ = await Replay(ingest.pool, ingest.batch, actor="tests", why="mended").run(Choice())
    await ingest.attribute()

    assert (replayed.inserted, replayed.refused_again) == (2, Counter())
    assert await sums(ingest) == {}


async def test_usage_with_the_identity_of_an_amendment_is_a_conflict_though_it_says_the_same(
    ingest: Ingest, subscription: str
) -> None:
    at: dict[str, Any] = {"subject": subscription, "time": EARLIER}
    await ingest.apply_values(structured(id="a", **at), amend("a", id="b", **at), structured(id="b", **at))

    assert await reasons(ingest) == [Reason.CONFLICT]


async def test_two_workers_that_take_one_event_back_at_once_take_it_back_once(
    ingest: Ingest, subscription: str
) -> None:
    await ingest.apply_values(structured(id="a", subject=subscription))
    workers = [Ingest(ingest.pool) for _ in range(4)]

    async def take_back(number: int, worker: Ingest) -> None:
        await worker.apply(record(void("a", id=f"void-{number}"), partition=number + 1))

    await asyncio.gather(*(take_back(*found) for found in enumerate(workers)))

    assert await sums(ingest) == {}
    assert await reasons(ingest) == [Reason.ALREADY_VOIDED] * 3


async def test_the_original_may_be_older_than_events_may_be(ingest: Ingest, subscription: str) -> None:
    ingest.limits = Limits(late=timedelta(days=400))
    ingest.restart()
    await ingest.apply_values(structured(id="a", subject=subscription, time="2026-01-15T00:00:00Z"))
    ingest.limits = Limits()
    ingest.restart()
    await ingest.apply_values(void("a"))

    assert await sums(ingest) == {}


async def test_a_correction_of_an_archived_month_is_refused_until_it_is_restored(
    ingest: Ingest, subscription: str
) -> None:
    await ingest.apply_values(structured(id="a", subject=subscription))
    await ingest.pool.execute("DELETE FROM usage_logs")  # its identity stays, as when its month is archived

    await ingest.apply_values(void("a"))

    [row] = await ingest.quarantined()
    assert row["reason"] == Reason.TOO_OLD
    assert "the usage of 2026-11 is archived: restore it" in row["detail"]


async def test_ingest_does_all_this_with_the_rights_of_its_role(
    ingest: Ingest, ingest_database: str, subscription: str
) -> None:
    pool = await create_pool(ingest_database, application_name="tests", role="tallystick_ingest")
    try:
        assert await pool.fetchval("SELECT current_user") == "tallystick_ingest"
        worker = Ingest(pool)
        await worker.apply_values(void("a"), structured(id="b", subject=subscription), void("b", id="void-2"))
        await worker.apply_values(
            structured(id="a", subject=subscription), structured(id="b", subject=subscription, time=EARLIER)
        )
        await worker.attribute()
        await IdentityGenerations(pool, FixedClock(NOW), timedelta(days=183), timedelta(days=400))()
    finally:
        await pool.close()

    assert await sums(ingest) == {}
    assert await reasons(ingest) == [Reason.CONFLICT]
