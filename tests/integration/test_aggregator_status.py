"""What gateways hear of subscriptions: every change, in the order of its versions, whoever made it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from prometheus_client import REGISTRY

from services.aggregator import store
from services.aggregator.status import StatusPublisher
from shared.clock import FixedClock
from shared.contracts import SUBSCRIPTION_STATUS, Remaining, SubscriptionStatus
from shared.outbox import Message, Producer
from shared.postgres import Pool
from tests.integration.aggregator_facts import DECEMBER, Aggregator, Published, make_subscription, subscription
from tests.unit.aggregator.facts import NOON, delta, recorded

NEVER = 3600.0
MANY_SUBSCRIPTIONS = """
    WITH many AS (INSERT INTO users (id, email) SELECT gen_random_uuid(), n || '@example.com' FROM generate_series(1, 2000) n RETURNING id)
    INSERT INTO subscriptions (user_id, plan_id, status) SELECT id, 'enterprise', 'active' FROM many
"""


def decoded(messages: Sequence[Message]) -> list[SubscriptionStatus]:
    return [msgspec.json.decode(message.value or b"", type=SubscriptionStatus) for message in messages]


def publisher(pool: Pool, produce: Producer) -> StatusPublisher:
    return StatusPublisher(pool, produce, FixedClock(NOON), seconds=NEVER)


async def versions(pool: Pool, id_: UUID) -> tuple[int, int]:
    row = await subscription(pool, id_)
    return row["status_version"], row["status_published_version"]


async def set_quota(pool: Pool, id_: UUID, quota: int) -> None:
    """Change something that gateways must hear of."""
    await pool.execute("UPDATE subscriptions SET quota_requests = $2 WHERE id = $1", id_, quota)


@pytest.fixture
def published() -> Published:
    return Published()


async def test_a_new_subscription_is_published_once(database_pool: Pool, published: Published) -> None:
    owner = await make_subscription(database_pool, quota_requests=10, quota_tokens=None, used_requests=4)
    statuses = publisher(database_pool, published)
    assert await statuses.publish() == 1
    assert await statuses.publish() == 0

    (message,), (status,) = published.messages, decoded(published.messages)
    assert (message.topic, message.key) == (SUBSCRIPTION_STATUS, str(owner).encode())
    assert (status.subscription, status.status, status.reasons, status.version) == (owner, "active", [], 0)
    assert status.remaining == Remaining(requests=6, tokens=None, credits=None)
    assert status.reset_at == DECEMBER
    assert await versions(database_pool, owner) == (0, 0)


async def test_a_suspension_by_usage_wakes_the_publisher(database_pool: Pool, published: Published) -> None:
    owner = await make_subscription(database_pool, quota_requests=10)
    statuses, aggregator = publisher(database_pool, published), Aggregator(database_pool)
    await statuses.publish()
    await aggregator.apply(recorded(delta(owner, requests=4)))
    assert aggregator.wakes == 0, "nothing changed that a gateway must hear of"
    await aggregator.apply(recorded(delta(owner, requests=9)))
    assert aggregator.wakes == 1

    await statuses.publish()
    last = decoded(published.messages)[-1]
    assert (last.status, last.reasons, last.remaining.requests) == ("suspended", ["quota_requests"], 0)


async def test_a_woken_publisher_does_not_wait_for_its_timer(database_pool: Pool, published: Published) -> None:
    await make_subscription(database_pool)
    statuses = publisher(database_pool, published)
    statuses.wake()
    await asyncio.wait_for(statuses.wait_and_publish(), timeout=10)
    assert len(published.messages) == 1


async def test_a_suspension_by_billing_is_found_by_the_timer(database_pool: Pool, published: Published) -> None:
    owner = await make_subscription(database_pool)
    statuses = StatusPublisher(database_pool, published, FixedClock(NOON), seconds=0.01)
    await statuses.publish()
    await database_pool.execute("SELECT suspend_subscription($1, 'payment_overdue')", owner)
    await asyncio.wait_for(statuses.wait_and_publish(), timeout=10)
    assert decoded(published.messages)[-1].reasons == ["payment_overdue"]


async def test_prepaid_subscriptions_tell_their_credits(database_pool: Pool, published: Published) -> None:
    owner = await make_subscription(database_pool, billing_mode="prepaid")
    without = await make_subscription(database_pool, billing_mode="prepaid")
    user_id = (await subscription(database_pool, owner))["user_id"]
    await database_pool.execute("INSERT INTO user_credits (user_id) VALUES ($1) ON CONFLICT DO NOTHING", user_id)
    await database_pool.execute("SELECT add_user_credits($1, 12.50, 'purchase')", user_id)
    await publisher(database_pool, published).publish()
    balances = {status.subscription: status.remaining.credits for status in decoded(published.messages)}
    assert float(balances[owner] or 0) == 12.5
    assert balances[without] == "0"


async def test_what_changes_while_it_is_published_comes_again(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=1)
    published = Published()

    async def slow(messages: Sequence[Message]) -> None:
        """A broker so slow that the subscription changes before it acknowledges: it must not have to wait for that."""
        await published(messages)
        if len(published.messages) == 1:
            await asyncio.wait_for(set_quota(database_pool, owner, 2), timeout=5)

    await publisher(database_pool, slow).publish()
    assert [status.version for status in decoded(published.messages)] == [0, 1]
    assert await versions(database_pool, owner) == (1, 1)


async def test_statuses_that_the_broker_refused_are_published_again(database_pool: Pool, published: Published) -> None:
    owner = await make_subscription(database_pool)

    async def refuse(messages: Sequence[Message]) -> None:
        raise ConnectionError("no broker")

    with pytest.raises(ConnectionError):
        await publisher(database_pool, refuse).publish()
    assert await versions(database_pool, owner) == (0, -1)
    await publisher(database_pool, published).publish()
    assert [status.version for status in decoded(published.messages)] == [0]


async def test_a_publisher_that_lost_its_session_publishes_the_newer_state_last(database_pool: Pool) -> None:
    """Its old message may have come after another worker's new one: the compacted topic would keep the old state."""
    owner = await make_subscription(database_pool, quota_requests=1)
    topic: list[Message] = []

    async def delayed(messages: Sequence[Message]) -> None:
        if not topic:
            await database_pool.execute(
                """SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE l.locktype = 'advisory' AND d.datname = current_database()"""
            )
            await set_quota(database_pool, owner, 2)
            await publisher(database_pool, other).publish()
        topic.extend(messages)

    async def other(messages: Sequence[Message]) -> None:
        topic.extend(messages)

    stale = publisher(database_pool, delayed)
    with pytest.raises(Exception, match=r"connection|closed|terminat"):
        await stale.publish()
    assert [status.version for status in decoded(topic)] == [1, 0], "the case that is meant"
    await stale.publish()
    assert [status.version for status in decoded(topic)] == [1, 0, 1]
    assert await versions(database_pool, owner) == (1, 1)


async def test_only_one_publisher_is_at_work(database_pool: Pool, published: Published) -> None:
    await make_subscription(database_pool)
    inside: list[int] = []

    async def look_who_else(messages: Sequence[Message]) -> None:
        await published(messages)
        inside.append(await publisher(database_pool, published).publish())

    assert await publisher(database_pool, look_who_else).publish() == 1
    assert inside == [0]
    assert len(published.messages) == 1


async def test_versions_arrive_in_order_from_two_publishers_amid_changes(database_pool: Pool) -> None:
    owners = [await make_subscription(database_pool, quota_requests=1) for _ in range(5)]
    published = Published()

    async def produce(messages: Sequence[Message]) -> None:
        for message in messages:
            await asyncio.sleep(0)
            await published([message])

    async def until(done: Callable[[], Awaitable[bool]], statuses: StatusPublisher) -> None:
        while not await done():
            await statuses.publish()

    async def all_published() -> bool:
        rows = await database_pool.fetch("SELECT status_version, status_published_version FROM subscriptions")
        return all(row["status_version"] == row["status_published_version"] == 20 for row in rows)

    async def change() -> None:
        for i in range(20):
            for owner in owners:
                await set_quota(database_pool, owner, 100 + i)

    both = (until(all_published, publisher(database_pool, produce)) for _ in range(2))
    await asyncio.wait_for(asyncio.gather(change(), *both), timeout=60)
    for owner in owners:
        seen = [status.version for status in decoded(published.messages) if status.subscription == owner]
        assert seen == sorted(seen)
        assert seen[-1] == 20


async def test_more_than_a_round_is_published(
    database_pool: Pool, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.aggregator.status.ROUND_STATUSES", 2)
    owners = [await make_subscription(database_pool) for _ in range(5)]
    assert await publisher(database_pool, published).publish() == 5
    assert {status.subscription for status in decoded(published.messages)} == set(owners)


async def test_a_failing_broker_is_tried_again_with_patience(
    database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await make_subscription(database_pool)
    attempts = 0

    async def fail_twice(messages: Sequence[Message]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionError("no broker")

    statuses = StatusPublisher(database_pool, fail_twice, FixedClock(NOON), seconds=0.001)
    for _ in range(3):
        await statuses.wait_and_publish()
    assert attempts == 3
    assert await versions(database_pool, owner) == (0, 0)


async def test_it_is_measured_how_old_the_usage_is_when_gateways_hear_of_a_suspension(
    database_pool: Pool, published: Published
) -> None:
    name = "usage_aggregator_status_freshness_seconds"
    before = [REGISTRY.get_sample_value(f"{name}_{part}") or 0 for part in ("count", "sum")]
    await make_subscription(database_pool)
    statuses = publisher(database_pool, published)
    statuses.wake(NOON - timedelta(seconds=2))
    statuses.wake()  # a change that no usage caused
    await statuses.publish()
    await statuses.publish()
    after = [REGISTRY.get_sample_value(f"{name}_{part}") or 0 for part in ("count", "sum")]
    assert [then - now for then, now in zip(after, before, strict=True)] == [1, 2]


async def test_what_could_not_be_published_is_measured_when_it_is(database_pool: Pool, published: Published) -> None:
    async def refuse(messages: Sequence[Message]) -> None:
        raise ConnectionError("no broker")

    count = "usage_aggregator_status_freshness_seconds_count"
    before = REGISTRY.get_sample_value(count) or 0
    await make_subscription(database_pool)
    statuses = publisher(database_pool, refuse)
    statuses.wake(NOON)
    with pytest.raises(ConnectionError):
        await statuses.publish()
    assert REGISTRY.get_sample_value(count) == before
    statuses._produce = published  # the broker is back
    await statuses.publish()
    assert REGISTRY.get_sample_value(count) == before + 1


async def test_whether_anything_waits_is_asked_of_the_index_though_most_rows_seem_to_match(database_pool: Pool) -> None:
    """Before a vacuum the index holds what changed once, and the planner guesses that a third of all rows match."""
    async with database_pool.acquire() as connection, connection.transaction():
        await connection.execute(MANY_SUBSCRIPTIONS)
        await connection.execute("UPDATE subscriptions SET status_published_version = status_version")
        await connection.execute("ANALYZE subscriptions")
        plan = await connection.fetch(f"EXPLAIN {store.SQL['anything_unpublished']}")
        waits = await store.anything_unpublished(connection)

    assert "idx_subscriptions_unpublished" in "\n".join(row[0] for row in plan)
    assert waits is False
