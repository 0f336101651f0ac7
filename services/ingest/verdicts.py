"""Why the log does not take an event: what Postgres says, an archived month, another event under the same id."""

from __future__ import annotations

import struct
from datetime import datetime

import asyncpg

from services.ingest.acceptance import Reason, Rejected
from services.ingest.rows import UsageRow, differing_columns

REFUSALS_OF_VALUES = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeEncodeError, struct.error)
"""What packing and COPY raise for a value that Postgres does not take."""


def of_an_archived_month(month: datetime) -> Rejected:
    """Return why an event that belongs to a month outside of the log is refused."""
    return Rejected(
        Reason.TOO_OLD,
        f"the usage of {month:%Y-%m} is archived: restore it ('tallystick partitions restore'), then replay the event",
    )


def refused_by_database(error: Exception) -> Rejected:
    """Return why a single row is refused that Postgres did not take."""
    return Rejected(Reason.REFUSED_BY_DATABASE, f"Postgres refused a value: {str(error).splitlines()[0]}")


def has_no_partition(error: Exception) -> bool:
    """Tell a missing partition from a CHECK that a row breaks: the same SQLSTATE, but no constraint is named."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


def conflict_of(row: UsageRow, earlier: dict[str, object]) -> Rejected | None:
    """Return why a row is refused of which another version was stored (pure); None if it is the same.

    `earlier` is a row of `stored_versions`: without an `id` if only its identity is left, because its month is archived.
    """
    if earlier["id"] is None:
        differing, earlier = ["created_at"], {"created_at": earlier["guarded_at"]}
    else:
        differing = differing_columns(row, earlier) or ["corrects"] * (earlier.get("corrects") is not None)
    if not differing:
        return None
    what = "; ".join(
        f"{name}: {_show(earlier[name])} was stored, {_show(getattr(row, name, None))} came" for name in differing[:5]
    )
    return Rejected(
        Reason.CONFLICT,
        f"the event (source {row.source}, id {row.request_id}) was stored already with other content – {what}. "
        "It is not counted again; send a new id for new usage",
    )


def _show(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= 80 else text[:77] + "…"
