"""Reads how the pipeline stands, in one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.api.operation.lag import Lag, read_lag
from services.billing.reconciliation.report import RECONCILE
from shared.jobs import last_result
from shared.outbox import Outbox
from shared.postgres import Connection
from shared.sql import Queries

_SQL: Final = Queries.load("services.api.operation")
_PUBLISHING: Final = ("ingest", "aggregator", "billing")


@dataclass(frozen=True, slots=True)
class Service:
    """A service's progress: in how many partitions it has a position, and when one of them last moved."""

    service: str
    partitions: int
    went_on_at: datetime | None


@dataclass(frozen=True, slots=True)
class Unpublished:
    """Messages that a service has written and the broker has not acknowledged, and for how many seconds the oldest waits."""

    service: str
    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Freshness:
    """For how many seconds batches of the last five minutes were on their way to a service; `in_time` is the share within three seconds."""

    service: str
    batches: int
    median: float
    p99: float
    in_time: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How the pipeline stands. `records` are all that ingest has read; each was inserted, a duplicate, quarantined, held, or a gap.

    `proved_at` and what follows are of the last reconciliation that ended; None and nothing before there was one. `differing` names the
    checks that do not hold, `under_way` those that wait for messages on their way. `lag` is None where the broker has not said how far it is.
    """

    records: int
    inserted: int
    duplicates: int
    quarantined_ever: int
    held_ever: int
    gaps: int
    services: Sequence[Service]
    outboxes: Sequence[Unpublished]
    freshness: Sequence[Freshness]
    lag: Sequence[Lag] | None
    quarantined: int
    quarantined_since: datetime | None
    held: int
    held_since: datetime | None
    suspended: int
    proved_at: datetime | None
    checks: int
    differing: Sequence[str]
    under_way: Sequence[str]


async def read_standing(connection: Connection, ends: Mapping[tuple[str, int], int] | None = None) -> Standing:
    """Return how the pipeline stands, as `connection`, in a snapshot, sees it; `ends` of the topics, where the broker has said them."""
    ingest = await connection.fetchrow(_SQL["ingest"])
    waiting = await connection.fetchrow(_SQL["waiting"])
    proved_at, verdict = await last_result(connection, RECONCILE) or (None, {})
    return Standing(
        records=ingest["records"],
        inserted=ingest["inserted"],
        duplicates=ingest["duplicates"],
        quarantined_ever=ingest["quarantined"],
        held_ever=ingest["held"],
        gaps=ingest["gaps"],
        services=[Service(**row) for row in await connection.fetch(_SQL["services"])],
        outboxes=[
            Unpublished(service, *await Outbox(f"{service}_outbox").waiting(connection)) for service in _PUBLISHING
        ],
        freshness=[Freshness(**row) for row in await connection.fetch(_SQL["freshness"])],
        lag=None if ends is None else await read_lag(connection, ends),
        **waiting,
        proved_at=proved_at,
        checks=verdict.get("checks", 0),
        differing=verdict.get("differing", ()),
        under_way=verdict.get("under_way", ()),
    )
