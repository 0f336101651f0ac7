"""The aggregator's IO with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import chain
from typing import Any
from uuid import UUID

from services.aggregator.aggregation import Summary, full
from services.aggregator.health import Observation, ProviderHealth
from services.aggregator.keys import KeyDay
from services.aggregator.quota import QuotaPeriod, Subscription, Threshold
from services.aggregator.totals import Total
from services.aggregator.uses import numbered
from shared.contracts import ProviderDelta, UsageRecorded
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.aggregator")


async def act_as_aggregator(connection: Connection) -> None:
    """Let the audit trail name the aggregator."""
    await connection.execute(SQL["act_as_aggregator"])


async def begin(connection: Connection) -> None:
    """Let the audit trail name the aggregator, and the inbox not be pruned until the transaction ends. Comes before `receive`."""
    await connection.execute(SQL["begin"])


async def receive(connection: Connection, messages: Sequence[UsageRecorded]) -> list[UsageRecorded]:
    """Note messages in the inbox and return those that were never applied, each once: of batches that the database has."""
    identities = {(m.batch_id, m.part): m for m in reversed(messages)}
    rows = await connection.fetch(
        SQL["receive"],
        [batch_id for batch_id, _ in identities],
        [part for _, part in identities],
        [m.event_count for m in identities.values()],
        [m.by_app for m in identities.values()],
    )
    new = {(row["batch_id"], row["part"]) for row in rows}
    return [m for m in reversed(identities.values()) if (m.batch_id, m.part) in new]


async def lock_subscriptions(connection: Connection, ids: Collection[UUID]) -> list[Subscription]:
    """Take subscriptions for this transaction, in the order of their ids. Unknown ids are left out."""
    return [Subscription(*row) for row in await connection.fetch(SQL["lock_subscriptions"], list(ids))] if ids else []


async def lock_due_subscriptions(connection: Connection, now: datetime, limit: int) -> list[Subscription]:
    """Take subscriptions whose quota period is over and that nobody else holds."""
    return [Subscription(*row) for row in await connection.fetch(SQL["lock_due_subscriptions"], now, limit)]


async def add_totals(connection: Connection, partition: int, totals: Sequence[Total]) -> None:
    """Add what one partition adds over all subscriptions, in the order in which it comes; before its summaries."""
    if not totals:
        return
    types, starts, models, tools, sums = zip(*totals, strict=True)
    await connection.execute(
        SQL["add_totals"], partition, types, starts, models, tools,
        [s.requests for s in sums], [s.errors for s in sums],
        [s.request_tokens for s in sums], [s.response_tokens for s in sums], [s.cached_tokens for s in sums],
        [s.latency_sum_ms for s in sums], [s.latency_count for s in sums],
        list(chain.from_iterable(full(s.latency_histogram) for s in sums)),
    )  # fmt: skip


async def add_summaries(connection: Connection, summaries: Sequence[Summary]) -> None:
    """Add figures to summary rows and to the hours of uses, in the order in which they come; one for each key."""
    if not summaries:
        return
    ids, models, tools, hours, days, months, sums, uses = zip(*summaries, strict=True)
    kinds, numbers, api_keys = numbered(uses)
    times: dict[datetime, int] = {}  # a few; to send one costs as much as five numbers

    def places(of: Iterable[datetime | None]) -> list[int | None]:
        return [None if at is None else times.setdefault(at, len(times) + 1) for at in of]

    await connection.execute(
        SQL["add_summaries"], ids, models, tools,
        places(at or (use and use[1]) for at, use in zip(hours, uses, strict=True)), places(days), places(months),
        [s.requests for s in sums], [s.errors for s in sums],
        [s.request_tokens for s in sums], [s.response_tokens for s in sums], [s.cached_tokens for s in sums],
        [s.latency_sum_ms for s in sums], [s.latency_count for s in sums],
        list(chain.from_iterable(full(s.latency_histogram) for s in sums)), list(times),
        [number if at or number is None else -number for at, number in zip(hours, numbers, strict=True)], api_keys,
        *zip(*kinds, strict=True),
    )  # fmt: skip


async def count_usage(connection: Connection, increments: Sequence[tuple[UUID, int, int]]) -> list[Subscription]:
    """Add requests and tokens to the counters of locked subscriptions; return those as they are then."""
    if not increments:
        return []
    return [Subscription(*row) for row in await connection.fetch(SQL["count_usage"], *zip(*increments, strict=True))]


async def settle_reservations(connection: Connection, named: Sequence[tuple[UUID, UUID]], now: datetime) -> int:
    """Give back what reservations, named by (subscription, id), hold of quotas; return of how many.

    Comes in the transaction that counts their usage, and after it has locked the subscriptions.
    """
    if not named:
        return 0
    return await connection.fetchval(SQL["settle_reservations"], *zip(*named, strict=True), now)  # type: ignore[no-any-return]


async def roll_quota_periods(connection: Connection, rolls: Sequence[tuple[UUID, QuotaPeriod]]) -> list[Subscription]:
    """Start new quota periods of locked subscriptions, counters summed from their hours; return those as they are then."""
    if not rolls:
        return []
    columns = [id_ for id_, _ in rolls], [p.start for _, p in rolls], [p.reset_at for _, p in rolls]
    return [Subscription(*row) for row in await connection.fetch(SQL["roll_quota_periods"], *columns)]


async def raise_thresholds(connection: Connection, reached: Sequence[Threshold]) -> list[Mapping[str, Any]]:
    """Store an alert for each threshold that has none in the present quota period; return the new alerts."""
    if not reached:
        return []
    ids = [uuid7() for _ in reached]
    return await connection.fetch(SQL["raise_thresholds"], ids, *zip(*reached, strict=True))  # type: ignore[no-any-return]


async def add_observations(connection: Connection, partition: int, seen: Sequence[ProviderDelta]) -> None:
    """Add what one source partition saw of providers; `seen` is sorted by provider and minute."""
    if not seen:
        return
    await connection.execute(
        SQL["add_observations"], partition,
        [p.provider for p in seen], [p.minute for p in seen],
        [p.requests for p in seen], [p.errors for p in seen], [p.rate_limited for p in seen],
        [p.latency_sum_ms for p in seen], [p.latency_count for p in seen], [_array(p.latency_histogram) for p in seen],
        [p.last_success_at for p in seen], [p.last_failure_at for p in seen], [p.trailing_failures for p in seen],
    )  # fmt: skip


async def count_key_days(connection: Connection, used: Sequence[KeyDay], now: datetime) -> int:
    """Add to the days of API keys, whose subscriptions are locked. Return how many subscriptions gateways must hear of."""
    if not used:
        return 0
    return len(await connection.fetch(SQL["count_key_days"], *zip(*used, strict=True), now))


async def touch_api_keys(connection: Connection, used_at: Mapping[UUID, datetime]) -> None:
    """Say when API keys were last used, to the minute."""
    if used_at:
        await connection.execute(SQL["touch_api_keys"], list(used_at), list(used_at.values()))


# --- publication and timers ------------------------------------------------------------------------------------------


async def become_only_one(connection: Connection, work: str) -> bool:
    """Take the named lock for this transaction; return False if another worker has it."""
    return bool(await connection.fetchval(SQL["become_only_one"], f"tallystick.{work}"))


async def anything_unpublished(connection: Connection) -> bool:
    """Tell whether a status waits for publication."""
    return bool(await connection.fetchval(SQL["anything_unpublished"]))


async def unpublished_statuses(connection: Connection, limit: int, today: date) -> list[Mapping[str, Any]]:
    """Return the state of subscriptions that gateways have not heard of, with the keys that are used up from `today` (UTC) on."""
    return await connection.fetch(SQL["unpublished_statuses"], limit, today)  # type: ignore[no-any-return]


async def mark_published(connection: Connection, versions: Mapping[UUID, int]) -> None:
    """Note the versions that were published."""
    await connection.execute(SQL["mark_published"], list(versions), list(versions.values()))


async def publish_again(connection: Connection, ids: Collection[UUID]) -> None:
    """Let subscriptions be published once more, changed or not."""
    await connection.execute(SQL["publish_again"], list(ids))


async def recent_observations(connection: Connection, minutes: int) -> list[Observation]:
    """Return what was seen of each provider in its last minutes, sorted by provider."""
    return [Observation(*row) for row in await connection.fetch(SQL["recent_observations"], minutes)]


async def store_provider_health(connection: Connection, verdicts: Sequence[ProviderHealth]) -> None:
    """Replace the verdicts on providers."""
    if not verdicts:
        return
    await connection.execute(
        SQL["store_provider_health"],
        [v.provider for v in verdicts], [v.status for v in verdicts],
        [v.request_count for v in verdicts], [v.error_count for v in verdicts], [v.rate_limited_count for v in verdicts],
        [v.success_rate for v in verdicts], [v.avg_latency_ms for v in verdicts], [v.p95_latency_ms for v in verdicts],
        [v.consecutive_failures for v in verdicts], [v.last_success_at for v in verdicts], [v.last_failure_at for v in verdicts],
        [v.window_start for v in verdicts], [v.window_end for v in verdicts],
    )  # fmt: skip


async def forget_observations(connection: Connection, before: datetime) -> None:
    """Delete observations of earlier minutes."""
    await connection.execute(SQL["forget_observations"], before)


async def expire_reservations(connection: Connection, now: datetime, subscriptions: int) -> tuple[int, int]:
    """Expire what is due of the reservations of at most so many subscriptions; return of how many, and how many."""
    row = await connection.fetchrow(SQL["expire_reservations"], now, subscriptions)
    return row["subscriptions"], row["expired"]


async def open_reservations(connection: Connection) -> int:
    """Return how many reservations are open."""
    return await connection.fetchval(SQL["open_reservations"])  # type: ignore[no-any-return]


async def forget_reservations(connection: Connection, before: datetime, limit: int) -> int:
    """Forget finished reservations that were made before a time, at most `limit`; return how many."""
    return await connection.fetchval(SQL["forget_reservations"], before, limit)  # type: ignore[no-any-return]


async def forget_key_days(connection: Connection, before: date) -> None:
    """Forget the days of API keys before a day."""
    await connection.execute(SQL["keep_key_days"], before)
    await connection.execute(SQL["forget_key_days"], before)


async def prune_inbox(connection: Connection, before: datetime, batches: int) -> tuple[int, bool]:
    """Forget messages of at most `batches` batches that were recorded before a time and applied whole.

    Return how many messages that were, and whether there is more to forget.
    """
    await connection.execute(SQL["lock_inbox"])
    edge = await connection.fetchval(SQL["prunable_before"], before, batches)
    deleted = await connection.execute(SQL["prune_inbox"], edge)
    raised = await connection.execute(SQL["raise_watermark"], edge)
    return int(deleted.removeprefix("DELETE ")), raised == "UPDATE 1" and edge < before


async def refresh_usage_summary(connection: Connection, *, timeout: float) -> None:  # noqa: ASYNC109 – of the statement
    """Refresh the materialized view llm_usage_summary, in at most `timeout` seconds."""
    await connection.execute(SQL["refresh_usage_summary"], timeout=timeout)


def _array(histogram: list[int]) -> str:
    """Spell a histogram as an array of Postgres: arrays of arrays come apart in unnest, texts do not."""
    return "{" + ",".join(map(str, full(histogram))) + "}"
