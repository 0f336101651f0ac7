"""Compares rated usage with the log: whether everything was rated that was used. Reads only; rated usage is never rebuilt,
because settlements and invoice lines refer to it. What is missing is announced to billing again and rated then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.billing.rating.store import SQL
from services.billing.rating.usage import UsageKey
from shared.postgres import Connection

MEASURES: Final = ("requests", "errors", "request_tokens", "response_tokens", "cached_tokens", "tokens_returned")


@dataclass(frozen=True, slots=True)
class RatedDifference:
    """A key whose rated quantities are not those of the log, both by measure."""

    key: UsageKey
    rated: dict[str, int]
    logged: dict[str, int]

    @property
    def measures(self) -> list[str]:
        """The measures in which the two sides differ."""
        return [name for name in MEASURES if self.rated[name] != self.logged[name]]


async def compare_with_log(
    connection: Connection, start: datetime, end: datetime, subscription_id: UUID | None, *, limit: int
) -> tuple[int, Sequence[RatedDifference]]:
    """Compare event times `[start, end)`, both the start of an hour, of one subscription or of all (None).

    Returns how many keys differ, and the first `limit` of them. One statement: one snapshot.
    """
    rows = await connection.fetch(SQL["log_against_rated"], start, end, subscription_id, limit, timeout=3600)
    found = [
        RatedDifference(
            UsageKey(*(row[name] for name in UsageKey._fields)),
            dict(zip(MEASURES, row["rated"], strict=True)),
            dict(zip(MEASURES, row["logged"], strict=True)),
        )
        for row in rows
    ]
    return (rows[0]["total"] if rows else 0), found
