"""Reconciliation: proves in SQL that nothing was lost, counted twice, or billed differently from what was used.

Each statement compares two sides that were written independently of each other (invariants 3 and 4 of
docs/explanation/architecture.md), in one snapshot. A running pipeline does not disturb it: each service changes both
sides of a statement in one transaction, and what one service has not heard of the other yet is left out; only the
`eventual` statements, that everything was heard of, wait for the pipeline to come to rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from services.billing.reconciliation.statements import STATEMENTS, Statement
from shared.postgres import Connection
from shared.sql import Queries

QUERIES = Queries.load("services.billing.reconciliation")


@dataclass(frozen=True, slots=True)
class Check:
    """One proved statement: `left_label` is worth `left`, `right_label` is worth `right`, and they must be equal, key by key.

    `differing` names the first keys in which the two sides differ: equal sums do not hide two errors that cancel out.
    `eventual`: while messages are on their way it does not hold yet; all others hold at any moment.
    """

    name: str
    statement: str
    left_label: str
    left: int | Decimal
    right_label: str
    right: int | Decimal
    differing: Sequence[str] = ()
    eventual: bool = False

    @property
    def holds(self) -> bool:
        """Whether the two sides agree, in sum and in every key."""
        return self.left == self.right and not self.differing


async def reconcile(connection: Connection) -> list[Check]:
    """Prove every statement in one REPEATABLE READ snapshot; reads only. `connection` must not be in a transaction."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(QUERIES["pin_partitions"])
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
        eventual=statement.eventual,
    )


def _whole(value: Decimal | int) -> int | Decimal:
    """Return a count as the int that it is; amounts stay Decimal."""
    return int(value) if value == int(value) else Decimal(value)
