"""Reconciliation: proves in SQL that nothing was lost, counted twice, or billed differently from what was used.

Each statement compares two sides that were written independently of each other (invariants 3 and 4 of
docs/explanation/architecture.md), in one snapshot, so that a running pipeline does not disturb it: every one of our
writes keeps both sides equal within its transaction, except where a statement says what still waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from shared.postgres import Connection
from shared.sql import Queries

QUERIES = Queries.load("services.billing.reconciliation")


@dataclass(frozen=True, slots=True)
class Check:
    """One proved statement: `left_label` is worth `left`, `right_label` is worth `right`, and they must be equal, key by key.

    `differing` names the first keys in which the two sides differ: equal sums do not hide two errors that cancel out.
    """

    name: str
    statement: str
    left_label: str
    left: int | Decimal
    right_label: str
    right: int | Decimal
    differing: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        """Whether the two sides agree, in sum and in every key."""
        return self.left == self.right and not self.differing


@dataclass(frozen=True, slots=True)
class Statement:
    """What is proved, and by which query. One check comes of each measure (a quantity, a currency) that the query returns."""

    name: str
    statement: str
    left_label: str
    right_label: str
    query: str
    arguments: tuple[Any, ...] = ()


STATEMENTS: Final = (
    Statement(
        "offsets accounted",
        "Every offset that ingest passed is a stored event, a duplicate, quarantined, held, or a gap.",
        "next - start",
        "inserted + duplicates + quarantined + held + gaps",
        "positions_add_up",
    ),
    Statement(
        "positions = batches",
        "Each source partition's position is the sum of the batches that moved it.",
        "positions",
        "batches",
        "positions_equal_batches",
    ),
    Statement(
        "batches touch",
        "The offset ranges of a partition's batches follow one another: no gap, no overlap.",
        "edges",
        "edges that touch",
        "batches_touch",
    ),
    Statement(
        "batches = log",
        "Every batch left exactly the rows in usage_logs that it counted.",
        "batches.inserted",
        "rows of usage_logs",
        "batches_equal_log",
    ),
    Statement(
        "batches = quarantine",
        "Every record that was refused is kept in quarantine.",
        "batches.quarantined",
        "quarantined_events",
        "batches_equal_quarantine",
    ),
    Statement(
        "batches = held",
        "Every event of an unknown subscription or key is kept.",
        "batches.held",
        "held_events",
        "batches_equal_held",
    ),
    Statement(
        "attributed = batches",
        "Every held event that was attributed since went through exactly one batch of held events.",
        "held_events attributed",
        "batches of held events",
        "attributed_equal_batches",
    ),
    Statement(
        "log has subscriptions",
        "Every row of usage_logs belongs to a subscription that exists.",
        "subscriptions in usage_logs",
        "of them known",
        "log_has_subscriptions",
    ),
    Statement(
        "log = hours",
        "The hour summaries are the log, by subscription, hour, model and tool.",
        "usage_logs",
        "hour summaries",
        "log_equals_hours",
    ),
    Statement(
        "hours = days",
        "The day summaries are the sums of the hours.",
        "hour summaries",
        "day summaries",
        "hours_equal_period",
        ("day",),
    ),
    Statement(
        "hours = months",
        "The month summaries are the sums of the hours.",
        "hour summaries",
        "month summaries",
        "hours_equal_period",
        ("month",),
    ),
    Statement(
        "hours = counters",
        "What each quota is judged by is what was used in its period.",
        "hour summaries in the quota period",
        "used_* counters",
        "hours_equal_counters",
    ),
    Statement(
        "batches = aggregator inbox",
        "The aggregator applied every message of every batch, once.",
        "announced by ingest",
        "applied by the aggregator",
        "batches_equal_aggregator_inbox",
    ),
)


async def reconcile(connection: Connection) -> list[Check]:
    """Prove every statement in one REPEATABLE READ snapshot; reads only. `connection` must not be in a transaction."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return [check for statement in STATEMENTS for check in await _prove(connection, statement)]


async def _prove(connection: Connection, statement: Statement) -> list[Check]:
    rows = await connection.fetch(QUERIES[statement.query], *statement.arguments, timeout=3600)
    return [_check(statement, row) for row in rows] or [_check(statement, _NOTHING)]


_NOTHING: Final = {"measure": "", "left_value": Decimal(0), "right_value": Decimal(0), "differing": None}
"""Nothing on either side yet: the statement holds trivially, and is listed all the same."""


def _check(statement: Statement, row: Any) -> Check:
    return Check(
        name=f"{statement.name}: {row['measure']}" if row["measure"] else statement.name,
        statement=statement.statement,
        left_label=statement.left_label,
        left=_whole(row["left_value"]),
        right_label=statement.right_label,
        right=_whole(row["right_value"]),
        differing=tuple(row["differing"] or ()),
    )


def _whole(value: Decimal | int) -> int | Decimal:
    """Return a count as the int that it is; amounts stay Decimal."""
    return int(value) if value == int(value) else Decimal(value)
