"""What was sent, compared with what is stored: the books of the generator on one side, the database on the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from services.billing.reconciliation import Check
from services.cli.demo.books import Expected, Usage
from services.cli.demo.world import QUERIES
from shared.postgres import Connection


@dataclass(frozen=True, slots=True)
class Counted:
    """What ingest has counted so far, over everything it ever read; `stored` is of this run's sources alone."""

    duplicates: int
    quarantined: int
    held: int
    stored: int

    def since(self, before: Counted) -> Counted:
        """Return what this run added."""
        return Counted(
            self.duplicates - before.duplicates,
            self.quarantined - before.quarantined,
            self.held - before.held,
            self.stored - before.stored,
        )


async def count(connection: Connection, sources: str) -> Counted:
    """Read the present counts. `sources` is a LIKE pattern."""
    return Counted(**await connection.fetchrow(QUERIES["counted"], sources))


async def stored_usage(connection: Connection, sources: str) -> dict[str, Usage]:
    """Read what the log holds of `sources`, by subscription."""
    rows = await connection.fetch(QUERIES["stored_usage"], sources)
    return {row["subscription_id"]: Usage(**{f.name: row[f.name] for f in fields(Usage)}) for row in rows}


async def compare(
    connection: Connection, sources: str, expected: Expected, added: Counted, stored_before: int
) -> list[Check]:
    """Return one check for each thing that was sent. A trace that was replayed before must be all duplicates."""
    return [
        *compare_usage(expected.by_subscription, await stored_usage(connection, sources)),
        _count_check("duplicates", expected.duplicates + stored_before, added.duplicates),
        _count_check("malformed and conflicting", expected.quarantined, added.quarantined),
        _count_check("of unknown subscriptions", expected.held, added.held),
    ]


def compare_usage(sent: Mapping[str, Usage], stored: Mapping[str, Usage]) -> list[Check]:
    """Compare (pure) usage by subscription: equal sums do not hide that one got what is another's."""
    checks = []
    everyone = sorted(sent.keys() | stored.keys())
    for field in fields(Usage):
        sides = {
            s: (getattr(sent.get(s, Usage()), field.name), getattr(stored.get(s, Usage()), field.name))
            for s in everyone
        }
        checks.append(
            Check(
                name=f"sent = stored: {field.name.replace('_', ' ')}",
                statement="The log holds what the generator sent, by subscription.",
                left_label="sent",
                left=sum(left for left, _ in sides.values()),
                right_label="usage_logs",
                right=sum(right for _, right in sides.values()),
                differing=tuple(
                    f"subscription {s}: {left} sent, {right} stored"
                    for s, (left, right) in sides.items()
                    if left != right
                )[:5],
            )
        )
    return checks


def _count_check(what: str, sent: int, counted: int) -> Check:
    return Check(
        f"sent = counted: {what}",
        "Ingest recognised what the generator sent.",
        "sent",
        sent,
        "counted by ingest",
        counted,
    )
