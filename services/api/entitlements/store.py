"""The IO of entitlements with Postgres; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from services.api.entitlements.decision import Held, Key, Standing
from shared.postgres import Pool
from shared.sql import Queries

_SQL = Queries.load("services.api.entitlements")

KeyName: TypeAlias = UUID | str
"""An API key by its id or its hash."""


async def standings(pool: Pool, ids: Sequence[UUID], now: datetime) -> dict[UUID, Standing]:
    """Return how subscriptions stand; those that are unknown are left out."""
    return {row["id"]: _standing(row, now) for row in await pool.fetch(_SQL["standings"], ids, now)}


async def keys(pool: Pool, names: Sequence[KeyName], now: datetime) -> dict[KeyName, Key]:
    """Return API keys by the names that were asked for; those that are unknown are left out."""
    ids, hashes = [n for n in names if isinstance(n, UUID)], [n for n in names if isinstance(n, str)]
    rows = await pool.fetch(_SQL["keys"], ids, hashes, now, now.date())
    found: dict[KeyName, Key] = {}
    for row in rows:
        id_, hash_, *facts = row
        found[id_] = found[hash_] = Key(id_, *facts)
    return {name: found[name] for name in names if name in found}


def _standing(row: Mapping[str, Any], now: datetime) -> Standing:
    return Standing(
        row["id"], row["user_id"], row["status"], row["suspended_reasons"], row["status_version"], row["currency"], row["quota_requests"],
        row["quota_tokens"], row["used_requests"], row["used_tokens"], row["concurrent"], row["credits"], row["reset_at"],
        Held(row["held_open"], row["held_requests"], row["held_tokens"], row["held_credits"]), now,
    )  # fmt: skip
