"""The named commit points (pure): moments of a transaction at whose edges a worker can be struck, known by the SQL that runs there.

By the SQL and not by the functions that hold it: so a point stays what it is when code moves. A test finds each of them
among the queries of its service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

_LOCK: Final = r"FROM \w+_positions\b.*FOR UPDATE"

SQL_EDGES: Final[Mapping[str, Mapping[str, str]]] = {
    "ingest": {
        "lock": _LOCK,
        "insert": r"^COPY usage_logs",
        "quarantine": r"INSERT INTO quarantined_events",
        "outbox": r"INSERT INTO ingest_outbox",
        "position": r"UPDATE ingest_positions",
    },
    "aggregator": {
        "lock": _LOCK,
        "inbox": r"INSERT INTO aggregator_inbox",
        "summaries": r"INSERT INTO usage_summaries",
        "counters": r"UPDATE subscriptions",
        "position": r"UPDATE aggregator_positions",
    },
    "billing": {
        "lock": _LOCK,
        "inbox": r"INSERT INTO billing_inbox",
        "rate": r"^COPY rated_usage",
        "position": r"UPDATE billing_positions",
        "account": r"lock_credit_account",
        "claim": r"UPDATE rated_usage\b.*settlement_id = ",
        "ledger": r"settle_credit_windows\(",
        "settlement": r"INSERT INTO credit_settlements",
    },
    "closing": {
        "draft": r"INSERT INTO invoices",
        "claim": r"UPDATE rated_usage\b.*SET invoice_line_id",
        "lines": r"INSERT INTO invoice_lines",
        "number": r"take_invoice_number",
        "announce": r"INSERT INTO billing_outbox",
    },
}
"""What is recognised by its SQL, by service; `closing` is the closing of a period."""

OTHER_EDGES: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": ("commit", "publish", "kafka_commit"),
    "aggregator": ("commit", "kafka_commit"),
    "billing": ("commit", "kafka_commit"),
    "closing": ("commit",),
}
"""What is recognised by the function of a library that does it."""

SIDES: Final = ("before", "after")


@cache
def points(service: str) -> tuple[str, ...]:
    """Return the points of a service, in the order of a batch."""
    edges = (*SQL_EDGES[service], *OTHER_EDGES[service])
    return tuple(f"{side}_{edge}" for edge in edges for side in SIDES)


@cache
def edge_of(service: str, sql: str) -> str | None:
    """Return the edge that a statement is, if it is one."""
    for edge, pattern in SQL_EDGES[service].items():
        if re.search(pattern, sql, re.DOTALL):
            return edge
    return None
