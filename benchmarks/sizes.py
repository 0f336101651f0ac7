"""How much the suite measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """How much is measured: events, rounds that take turns, rates in events/s, and rows that are there already."""

    events: int
    rounds: int
    naive_events: int
    """Several of its batches of 5,000: what is measured lies between the first that is seen and the last."""
    seed_rows: int
    pipeline_events: int
    rates: tuple[int, ...]
    seconds: int
    """Of each rate at which freshness is measured."""
    soak_rate: int
    soak_minutes: float
    outage_rate: int
    outage_minutes: float
    grown: tuple[int, ...]
    grown_rounds: int


POSTGRES = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
"""What docs/how-to/scale.md advises whoever stores much; the local stack has what suits a demo. Who takes turns has the same."""

QUICK = Size(30_000, 3, 12_000, 300, 30_000, (2_000,), 5, 2_000, 0.2, 1_000, 0.1, (200_000,), 1)
SMALL = Size(200_000, 5, 30_000, 1_500, 300_000, (5_000, 20_000, 40_000), 10, 30_000, 1.0, 15_000, 0.5, (1_000_000,), 3)
LONG = Size(
    1_000_000, 5, 200_000, 20_000, 5_000_000, (5_000, 20_000, 40_000), 120, 40_000, 10.0, 20_000, 10.0, (1_000_000, 10_000_000), 5
)  # fmt: skip
