"""The report of a proof that was made: kept with the run of the job, so that looking at it proves nothing anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from services.billing.reconciliation.reconcile import Check
from services.billing.reconciliation.statements import STATEMENTS
from shared.jobs import LastRun, details_of_run, recent_runs
from shared.postgres import Connection

RECONCILE: Final = "reconcile"
"""The job whose runs prove the books."""
RUNS: Final = 20
"""Most runs that a report lists."""


@dataclass(frozen=True, slots=True)
class Report:
    """A proof: the run that was `scheduled_for` a time, with its checks as they were then, and the runs beside it, the newest first.

    `scheduled_for` is None, and there are no checks, where no proof has ended yet. A run from before figures were kept has no checks either.
    """

    scheduled_for: datetime | None
    checks: Sequence[Check]
    runs: Sequence[LastRun]


async def read_report(connection: Connection, at: datetime | None = None) -> Report | None:
    """Return the report of the run for `at`, or of the last that ended; None where there is no run for that time."""
    runs = await recent_runs(connection, RECONCILE, RUNS)
    found = await details_of_run(connection, RECONCILE, at)
    if found is None:
        return Report(None, (), runs) if at is None else None
    scheduled_for, details = found
    return Report(scheduled_for, from_details(details or ()), runs)


def as_details(checks: Iterable[Check]) -> list[list[Any]]:
    """Return checks as they are kept: name, both sides as exact text, and the keys that differ. What they mean, the statements say."""
    return [[check.name, str(check.left), str(check.right), list(check.differing)] for check in checks]


def from_details(details: Iterable[Sequence[Any]]) -> list[Check]:
    """Return the checks that were kept, those that do not hold first; one whose statement is not made any more says just its name."""
    known = {statement.name: statement for statement in STATEMENTS}
    found = []
    for name, left, right, differing in details:
        of = known.get(name.partition(": ")[0])
        words = (of.statement, of.left_label, of.right_label) if of else ("", "", "")
        found.append(
            Check(name, words[0], words[1], _number(left), words[2], _number(right), tuple(differing), of is not None and of.eventual)
        )  # fmt: skip
    return sorted(found, key=lambda check: check.holds)


def _number(text: str) -> int | Decimal:
    number = Decimal(text)
    return int(number) if number == int(number) else number
