"""Reprice's IO with Postgres; the SQL is in queries.sql."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final
from uuid import UUID

from services.billing.rating.rating import Price
from services.billing.rating.usage import Payer, Quantities, UsageKey
from services.billing.reprice.changes import RatedGroup
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.reprice")
_QUANTITIES: Final = [field.name for field in fields(Quantities)]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rated usage prices concern: hours of a period, models, tools, features."""

    period: Period
    models: Sequence[str]
    tools: Sequence[str]
    features: Sequence[str]

    @classmethod
    def of(cls, period: Period, prices: Sequence[Price]) -> Scope:
        """Return what `prices` concern within the period."""
        subjects = {
            kind: sorted({p.subject for p in prices if p.kind == kind}) for kind in ("model", "tool", "feature")
        }
        return cls(period, subjects["model"], subjects["tool"], subjects["feature"])

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.period.start, self.period.end, self.models, self.tools, self.features

    async def rated_by_stretch(self, connection: Connection, edges: Sequence[Any]) -> list[tuple[RatedGroup, int]]:
        """Return what was rated, summed between `edges`, each with the number of rows behind it."""
        rows = await connection.fetch(SQL["rated_by_stretch"], *self._arguments, edges, timeout=3600)
        return [(_group(row), row["rows"]) for row in rows]

    async def rated_by_hour(self, connection: Connection, subscriptions: Sequence[UUID]) -> list[RatedGroup]:
        """Return what was rated of some subscriptions, hour by hour, in the order of the keys."""
        rows = await connection.fetch(SQL["rated_by_hour"], *self._arguments, subscriptions, timeout=3600)
        return [_group(row) for row in rows]

    async def waiting(self, connection: Connection) -> int:
        """Return how many events wait for a price."""
        return await connection.fetchval(SQL["waiting"], *self._arguments, timeout=3600)  # type: ignore[no-any-return]


def _group(row: Mapping[str, Any]) -> RatedGroup:
    return RatedGroup(
        key=UsageKey(*(row[name] for name in UsageKey._fields)),
        payer=Payer(row["user_id"], row["billing_mode"], row["currency"]),
        price_id=row["price_id"],
        multiplier=row["multiplier"],
        used=Quantities(**{name: row[name] for name in _QUANTITIES}),
        amount=row["amount"],
        cost=row["cost"],
    )


async def lock(connection: Connection) -> bool:
    """Keep others from repricing while this session lives; False if one does so now."""
    return await connection.fetchval(SQL["lock_reprices"])  # type: ignore[no-any-return]


async def unlock(connection: Connection) -> None:
    """Let others reprice."""
    await connection.execute(SQL["unlock_reprices"])


async def begin(
    connection: Connection, reprice_id: UUID, period: Period, prices: Sequence[UUID], *, why: str, by: str
) -> None:
    """Record a reprice."""
    await connection.execute(
        SQL["begin_reprice"], reprice_id, period.start, period.end, json.dumps([str(id_) for id_ in prices]), why, by
    )


async def begin_runs(connection: Connection, reprice_id: UUID, runs: Mapping[UUID, bool]) -> None:
    """Record the rating runs of a reprice, each with whether it takes back."""
    await connection.execute(SQL["begin_runs"], list(runs), list(runs.values()), reprice_id)
