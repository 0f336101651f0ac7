"""Held events find their owner, once, whatever named it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.ingest.acceptance import Limits
from shared.clock import FixedClock
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.aggregator_facts import make_subscription
from tests.integration.ingest_facts import Ingest, make_key
from tests.unit.ingest.events import NOW, binary, record, structured


@pytest.fixture
def ingest(ingest_pool: Pool) -> Ingest:
    return Ingest(ingest_pool)


def waiting() -> float:
    return REGISTRY.get_sample_value("usage_ingest_held_events_waiting") or 0.0


async def test_an_event_waits_for_its_subscription_and_goes_into_the_log_when_it_appears(ingest: Ingest) -> None:
    subscription = uuid7()
    value = structured(subject=str(subscription), time="2026-11-20T10:00:00Z")
    await ingest.apply(record(value, offset=7, key=b"\x00k", headers=[("h", b"\xff")]))
    assert await ingest.counts() == {"held": 1}
    await ingest.attribute()
    assert await ingest.stored() == []
    assert waiting() == 1

    await make_subscription(ingest.pool, id=subscription)
    await ingest.attribute()

    [row], [held] = await ingest.stored(), await ingest.held()
    assert (row["subscription_id"], row["created_at"].isoformat()) == (subscription, "2026-11-20T10:00:00+00:00")
    assert held["attributed_batch_id"] == row["batch_id"]
    assert (held["reason"], held["record_key"], held["record_value"]) == ("unknown_subscription", b"\x00k", value)
    assert waiting() == 0
    assert await ingest.counts() == {"held": 1}, "its offset was accounted for when it came"
    assert await ingest.adds_up()
    [message] = ingest.recorded()
    assert (message.origin.partition, message.origin.first_offset, message.event_count) == (0, None, 1)
    assert await ingest.pool.fetchval("SELECT kind FROM usage_batches WHERE inserted = 1") == "held"

    await ingest.attribute()
    assert len(await ingest.stored()) == 1


@pytest.mark.parametrize("named", ["api_key_id", "api_key_hash", "both", "key and subject"])
async def test_an_event_waits_for_its_key(ingest: Ingest, named: str) -> None:
    subscription, key, key_hash = await make_subscription(ingest.pool), uuid7(), "0" * 31 + uuid7().hex
    data: dict[str, Any] = {}
    if named != "api_key_hash":
        data["api_key_id"] = str(key)
    if named in {"api_key_hash", "both"}:
        data["api_key_hash"] = key_hash
    subject = str(subscription) if named == "key and subject" else ...
    value, headers = binary(subject=subject, data=data)
    await ingest.apply(record(value, headers=headers))
    await ingest.attribute()
    assert [row["reason"] for row in await ingest.held()] == ["unknown_api_key"]

    await make_key(ingest.pool, subscription, id=key, key_hash=key_hash)
    await ingest.attribute()

    [row] = await ingest.stored()
    assert (row["subscription_id"], row["api_key_id"]) == (subscription, key)


async def test_only_what_has_an_owner_by_now_is_attributed(ingest: Ingest) -> None:
    ids = [uuid7() for _ in range(3)]
    await ingest.apply_values(*(structured(id=str(n), subject=str(id_)) for n, id_ in enumerate(ids)))
    await make_subscription(ingest.pool, id=ids[1])

    await ingest.attribute()

    assert [row["request_id"] for row in await ingest.stored()] == ["1"]
    assert waiting() == 2


async def test_age_is_no_matter_once_an_event_was_held(ingest_pool: Pool) -> None:
    subscription = uuid7()
    ingest = Ingest(ingest_pool, limits=Limits(late=timedelta(days=35)))
    await ingest.apply_values(structured(subject=str(subscription)))
    await make_subscription(ingest_pool, id=subscription)
    ingest.batch.clock = FixedClock(NOW + timedelta(days=400))

    await ingest.attribute()

    assert len(await ingest.stored()) == 1
    assert await ingest.quarantined() == []


async def test_a_resend_of_a_held_event_is_stored_once(ingest: Ingest) -> None:
    subscription = uuid7()
    event = structured(subject=str(subscription))
    await ingest.apply_values(event, event)
    await make_subscription(ingest.pool, id=subscription)
    await ingest.apply_values(event)
    assert len(await ingest.stored()) == 1, "the worker asks again who it is"

    await ingest.attribute()

    assert len(await ingest.stored()) == 1
    assert await ingest.pool.fetchval("SELECT duplicates FROM usage_batches WHERE kind = 'held'") == 2
    assert await ingest.adds_up()


async def test_an_event_that_turns_out_contradictory_is_quarantined_then(ingest: Ingest) -> None:
    owner, other, key = uuid7(), await make_subscription(ingest.pool), uuid7()
    value = structured(subject=str(other), data={"api_key_id": str(key)})
    await ingest.apply_values(
        value, structured(id="2", subject=str(owner)), structured(id="2", subject=str(owner), data={"model": "o"})
    )
    await make_subscription(ingest.pool, id=owner)
    await make_key(ingest.pool, owner, id=key)

    await ingest.attribute()

    rejected = {row["record_offset"]: (row["reason"], row["record_value"]) for row in await ingest.quarantined()}
    assert rejected[0] == ("key_mismatch", value)
    assert rejected[2][0] == "conflict"
    assert len(ingest.letters()) == 2
    assert waiting() == 0
    assert await ingest.adds_up()


async def test_two_workers_attribute_side_by_side_without_doubling(ingest_pool: Pool) -> None:
    subscription = uuid7()
    one, other = Ingest(ingest_pool), Ingest(ingest_pool)
    for partition in range(4):
        values = [structured(id=f"{partition}-{n}", subject=str(subscription)) for n in range(20)]
        await one.apply(*(record(value, offset=n, partition=partition) for n, value in enumerate(values)))
    await make_subscription(ingest_pool, id=subscription)

    await asyncio.gather(one.attribute(), other.attribute(), one.attribute())

    assert len(await one.stored()) == 80
    one.published += other.published
    assert await one.adds_up()
    assert {message.origin.partition for message in one.recorded()} == {0, 1, 2, 3}
    doubled = "SELECT sum(duplicates)::bigint FROM usage_batches WHERE kind = 'held'"
    assert await ingest_pool.fetchval(doubled) == 0, "each takes what the other has not"


async def test_more_than_fits_one_transaction_is_attributed_in_several(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.held.ATTRIBUTE_AT_ONCE", 10)
    subscription = uuid7()
    await ingest.apply_values(*(structured(id=str(n), subject=str(subscription)) for n in range(35)))
    await make_subscription(ingest.pool, id=subscription)

    await ingest.attribute()

    assert len(await ingest.stored()) == 35
    assert await ingest.pool.fetchval("SELECT count(*) FROM usage_batches WHERE kind = 'held'") == 4


async def test_an_announcement_that_fails_waits_in_the_outbox(ingest: Ingest) -> None:
    subscription = uuid7()
    await ingest.apply_values(structured(subject=str(subscription)))
    await make_subscription(ingest.pool, id=subscription)
    ingest.refuse = ConnectionError("broker is away")

    await ingest.attribute()

    assert len(await ingest.stored()) == 1
    assert await ingest.waiting() == 1
