"""The IO of rebuilding with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql.

`recompute`, `compare` and what reads their results share temporary tables that end with the transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.aggregator.rebuild.differences import Difference, Kind, NegativeHour
from services.aggregator.rebuild.scope import Scope
from shared.contracts import LATENCY_BUCKET_COUNT, LATENCY_BUCKETS_MS
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.aggregator.rebuild")
_NO_LATENCIES = [0] * LATENCY_BUCKET_COUNT


@dataclass(frozen=True, slots=True)
class Selection:
    """Whose rows of a scope: those of `subscriptions` (None: of all), without those of `left_out` and those of `archived` months."""

    scope: Scope
    subscriptions: Sequence[UUID] | None
    left_out: Sequence[UUID] = ()
    archived: Sequence[datetime] = ()

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.scope.start, self.scope.end, self.subscriptions, self.left_out, self.archived


async def act_as_rebuild(connection: Connection) -> None:
    """Let the audit trail say that a rebuild changed subscriptions."""
    await connection.execute(_SQL["act_as_rebuild"])


async def pin_partitions(connection: Connection) -> None:
    """Keep months that are being detached visible to the snapshot that begins here."""
    await connection.execute(_SQL["pin_partitions"])


async def wait_for_archiving(connection: Connection) -> None:
    """Wait until no month is being archived, and let none be until the transaction ends."""
    await connection.execute(_SQL["wait_for_archiving"])


async def archived_months(connection: Connection, scope: Scope) -> list[datetime]:
    """Return the months of a scope that are archived: nothing can be computed for them."""
    return [row["month"] for row in await connection.fetch(_SQL["archived_months"], scope.start, scope.end)]


async def subscription_exists(connection: Connection, subscription_id: UUID) -> bool:
    """Tell whether there is such a subscription."""
    return bool(await connection.fetchval(_SQL["subscription_exists"], subscription_id))


async def lock_subscriptions(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Take subscriptions for this transaction, in the order in which all take them; return those that exist."""
    return [row["id"] for row in await connection.fetch(_SQL["lock_subscriptions"], ids)]


async def partly_applied(connection: Connection, scope: Scope, subscriptions: Sequence[UUID] | None) -> list[UUID]:
    """Return the subscriptions with usage in batches of which the aggregator has applied some messages, but not all."""
    batches = [row["batch_id"] for row in await connection.fetch(_SQL["partly_applied"])]
    if not batches:
        return []
    rows = await connection.fetch(_SQL["subscriptions_of_batches"], scope.start, scope.end, subscriptions, batches)
    return [row["subscription_id"] for row in rows]


async def recompute(connection: Connection, selected: Selection) -> int:
    """Fill the shadow with the hours of uses, hours, days, months and days of API keys that the log gives; return how many events it added up."""
    await connection.execute(_SQL["note_applied"])
    await connection.execute(_SQL["create_shadow"])
    await connection.execute(_SQL["create_uses"])
    await connection.execute(_SQL["recompute_uses"], *selected.arguments, LATENCY_BUCKETS_MS)
    await connection.execute(_SQL["recompute_hours"])
    await connection.execute(_SQL["recompute_coarser"], "hour", "day")
    await connection.execute(_SQL["recompute_coarser"], "day", "month")
    await connection.execute(_SQL["create_key_days"])
    await connection.execute(_SQL["recompute_key_days"], *selected.arguments)
    await connection.execute(_SQL["analyze_shadow"])
    return int(await connection.fetchval(_SQL["count_events"]))


async def compare(connection: Connection, selected: Selection) -> int:
    """Note the summary rows and hours of uses that differ from the shadow; return how many summary rows were compared."""
    await connection.execute(_SQL["create_differences"])
    await connection.execute(_SQL["find_differences"], *selected.arguments, _NO_LATENCIES)
    await connection.execute(_SQL["find_use_differences"], *selected.arguments, _NO_LATENCIES)
    return int(await connection.fetchval(_SQL["count_compared"], *selected.arguments))


async def count_differences(connection: Connection) -> list[tuple[Kind, int]]:
    """Return how many summary rows differ, by the length of their period."""
    return [(row["period_type"], row["rows"]) for row in await connection.fetch(_SQL["count_differences"])]


async def differing_subscriptions(connection: Connection) -> list[UUID]:
    """Return the subscriptions with summary rows that differ."""
    return [row["subscription_id"] for row in await connection.fetch(_SQL["differing_subscriptions"])]


async def first_differences(connection: Connection, limit: int) -> list[Difference]:
    """Return the first summary rows that differ, coarse before fine."""
    return [_difference(row) for row in await connection.fetch(_SQL["first_differences"], limit)]


async def negative_hours(connection: Connection, limit: int) -> list[NegativeHour]:
    """Return the first hours, over by now, that sum to less than nothing by the log."""
    rows = await connection.fetch(_SQL["negative_hours"], limit)
    return [
        NegativeHour(subscription_id, hour, model_id, tool_name, json.loads(figures))
        for subscription_id, hour, model_id, tool_name, figures in rows
    ]


async def differing_counters(connection: Connection, selected: Selection) -> list[Difference]:
    """Return the subscriptions whose counters are not what was used in their quota period, where that meets the scope."""
    return [_difference(row) for row in await connection.fetch(_SQL["differing_counters"], *selected.arguments)]


async def differing_key_days(connection: Connection, selected: Selection) -> list[Difference]:
    """Return the days of API keys that are not what the log gives."""
    return [_difference(row) for row in await connection.fetch(_SQL["differing_key_days"], *selected.arguments)]


async def replace_key_days(connection: Connection, selected: Selection) -> None:
    """Make the days of API keys of the selected, locked subscriptions what the log gives."""
    left_out = set(selected.left_out)
    chosen = [id_ for id_ in selected.subscriptions or () if id_ not in left_out]
    await connection.execute(
        _SQL["replace_key_days"], chosen, selected.scope.start, selected.scope.end, selected.archived
    )


async def replace_summaries(connection: Connection) -> int:
    """Make the rows that differ what the shadow says, and the totals their sum; return how many there were."""
    await connection.execute(_SQL["delete_unfounded"])
    await connection.execute(_SQL["replace_summaries"])
    await connection.execute(_SQL["repair_totals"])
    await connection.execute(_SQL["delete_unfounded_uses"])
    await connection.execute(_SQL["replace_uses"])
    return sum(count for _, count in await count_differences(connection))


async def set_counters(connection: Connection, counters: Sequence[Difference]) -> None:
    """Store recomputed counters of locked subscriptions; the trigger decides who is suspended."""
    await connection.execute(
        _SQL["set_counters"],
        [c.subscription_id for c in counters],
        [c.recomputed["requests"] for c in counters],
        [c.recomputed["tokens"] for c in counters],
    )


def _difference(row: Mapping[str, Any]) -> Difference:
    return Difference(
        kind=row["period_type"],
        subscription_id=row["subscription_id"],
        period_start=row["period_start"],
        model_id=row["model_id"],
        tool_name=row["tool_name"],
        stored=json.loads(row["stored"]),
        recomputed=json.loads(row["recomputed"]),
    )
