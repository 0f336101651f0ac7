"""Hours of uses are kept with the summaries, and the database says from when on they are complete."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest

from shared.postgres import Connection, Pool
from shared.sql import Queries
from tests.integration.aggregator_facts import Aggregator, make_subscription
from tests.integration.rebuild_facts import some_rows, store_batch, take_back
from tests.unit.aggregator.facts import NOON, delta, recorded

KEY = UUID(int=7)
KIND = {
    "model_id": "gpt-4o", "tool_name": "", "provider": "openai", "feature_type": "chat", "power_level": "eco", "byok": False,
    "failed": False, "app_id": "crm",
}  # fmt: skip


async def kept(pool: Pool, owner: UUID) -> dict[tuple[Any, ...], tuple[int, int, list[int]]]:
    """Return requests, tokens and latencies of a subscription by key, app and whether it failed."""
    rows = await pool.fetch("SELECT * FROM usage_hours WHERE subscription_id = $1", owner)
    return {
        (row["hour"], row["api_key_id"], row["app_id"], row["failed"]): (
            row["request_count"], row["request_tokens"] + row["response_tokens"], row["latency_histogram"],
        )
        for row in rows
    }  # fmt: skip


async def test_uses_are_added_to_their_hours_by_key_app_and_outcome(database_pool: Pool) -> None:
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    slow: dict[str, Any] = {"latency_sum_ms": 900, "latency_count": 1, "latency_histogram": [0] * 5 + [1] + [0] * 6}
    crm, shop = delta(owner, app_id="crm", tokens=10, **slow), delta(owner, app_id="shop", tokens=1, api_key_id=KEY)
    failed = delta(owner, app_id="crm", status_class=5, errors=1, tokens=0)
    await aggregator.apply(recorded(crm, shop), recorded(crm))
    await aggregator.apply(recorded(crm, failed, delta(owner, hour=NOON + timedelta(hours=1), tokens=3)))

    none = UUID(int=0)
    assert await kept(database_pool, owner) == {
        (NOON, none, "crm", False): (3, 30, [0] * 5 + [3] + [0] * 6),
        (NOON, KEY, "shop", False): (1, 1, [0] * 12),
        (NOON, none, "crm", True): (1, 0, [0] * 12),
        (NOON + timedelta(hours=1), none, "", False): (1, 3, [0] * 12),
    }


async def test_what_is_taken_back_comes_off_the_use_that_it_was_of(database_pool: Pool) -> None:
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    messages = await store_batch(database_pool, some_rows(random.Random(5), [owner], 40))
    reversals = await take_back(database_pool, messages)
    await aggregator.apply(*reversals)  # before the events that they take back
    assert any(requests < 0 for requests, _, _ in (await kept(database_pool, owner)).values())
    await aggregator.apply(*messages)
    after = await kept(database_pool, owner)
    assert len(after) > 10
    assert all(value == (0, 0, [0] * 12) for value in after.values())


async def since(pool: Pool) -> Any:
    return await pool.fetchval("SELECT CASE WHEN since > '-infinity' THEN since END FROM usage_hours_kept")


async def test_a_message_that_does_not_tell_apps_apart_moves_the_mark(database_pool: Pool) -> None:
    """The trigger note_missing_hours sees it in the inbox."""
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    await aggregator.apply(recorded(delta(owner, app_id="crm")))
    assert await since(database_pool) is None
    before = datetime.now(UTC)
    await aggregator.apply(recorded(delta(owner), by_app=False))
    moved = await since(database_pool)
    assert before + timedelta(hours=1) < moved <= datetime.now(UTC) + timedelta(hours=2)
    assert (moved.minute, moved.second) == (0, 0)
    await aggregator.apply(recorded(delta(owner, app_id="crm")))
    assert await since(database_pool) == moved
    await database_pool.execute("UPDATE usage_hours_kept SET since = since + interval '1 day'")
    await aggregator.apply(recorded(delta(owner), by_app=False))
    assert await since(database_pool) == moved + timedelta(days=1)


async def test_a_message_that_the_version_before_applies_moves_it_too(database_pool: Pool) -> None:
    await database_pool.execute(
        "INSERT INTO aggregator_inbox (batch_id, part, event_count) VALUES (gen_random_uuid(), 0, 1)"
    )
    assert await since(database_pool) is not None


async def kind(connection: Connection, **changed: Any) -> UUID:
    values = (KIND | changed).values()
    return await connection.fetchval("SELECT usage_kind($1, $2, $3, $4, $5, $6, $7, $8)", *values)  # type: ignore[no-any-return]


async def test_kinds_that_differ_have_different_names(connection: Connection) -> None:
    texts = [name for name, value in KIND.items() if isinstance(value, str)]
    kinds = [await kind(connection), await kind(connection, byok=True), await kind(connection, failed=True)]
    kinds += [await kind(connection, **{name: "other"}) for name in texts]
    for one, other in combinations(texts, 2):  # nor do neighbours run into each other
        kinds += [await kind(connection, **{one: "ab", other: "c"}), await kind(connection, **{one: "a", other: "bc"})]
    kinds += [await kind(connection, app_id="é" * 512, provider="5:" * 256)]
    assert len(set(kinds)) == len(kinds)
    assert await kind(connection) == kinds[0]


@pytest.mark.parametrize("months", [1, 6])
async def test_names_of_any_length_are_kept(database_pool: Pool, months: int) -> None:
    """Texts of 512 characters would be too much for an index."""
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    long = "é" * 512
    uses = [
        delta(
            owner, hour=NOON - timedelta(days=30 * n), provider=long, feature_type=long, app_id=long, power_level=long
        )
        for n in range(months)
    ]
    await aggregator.apply(recorded(*uses))
    assert len(await kept(database_pool, owner)) == months


async def test_a_busy_month_is_read_through_the_key(connection: Connection) -> None:
    sql = Queries.load("services.api.usage", usage_logs="usage_logs", rated_usage="rated_usage")["series_of_hours"]
    await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_custom_plan")
    await connection.execute(
        f"PREPARE asked (uuid[], timestamptz, timestamptz, timestamptz[], text) AS {sql.split(';')[0]}"
    )
    plan = await connection.fetch(
        "EXPLAIN EXECUTE asked (ARRAY[gen_random_uuid()], '2026-11-01Z', '2026-12-01Z', ARRAY['2026-11-01Z'::timestamptz], 'app')"
    )
    assert "Index Cond: ((subscription_id = ANY" in "\n".join(row[0] for row in plan)
    assert "(hour >=" in "\n".join(row[0] for row in plan)
