"""Ingest's metrics: meaning, unit and labels in one place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from services.ingest.acceptance import Reason
from services.ingest.store import Counts

EVENTS = Counter(
    "usage_ingest_events",
    "Records whose fate was committed, by outcome: inserted, duplicate, quarantined, held, gap.",
    ["outcome"],
)
CORRECTIONS = Counter(
    "usage_ingest_corrections",
    "Corrections that were applied, by kind: void, amend. They are among the inserted.",
    ["kind"],
)
QUARANTINED = Counter("usage_ingest_quarantined_events", "Records refused and kept, by reason.", ["reason"])
BATCH_EVENTS = Histogram(
    "usage_ingest_batch_events",
    "Offsets in one committed batch.",
    buckets=(1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000),
)
FRESHNESS = Histogram(
    "usage_ingest_freshness_seconds",
    "From the youngest event time of a batch to its row being committed.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3_600),
)
HELD = Gauge("usage_ingest_held_events_waiting", "Valid events that wait for their subscription or key.")
HELD_AGE = Gauge("usage_ingest_held_oldest_seconds", "Age of the oldest of them.")

for _reason in Reason:
    QUARANTINED.labels(_reason)
for _kind in ("void", "amend"):
    CORRECTIONS.labels(_kind)


def count_batch(counts: Counts, reasons: Sequence[Reason]) -> None:
    """Count a committed batch."""
    for outcome, count in (
        ("inserted", counts.inserted),
        ("duplicate", counts.duplicates),
        ("quarantined", counts.quarantined),
        ("held", counts.held),
        ("gap", counts.gaps),
    ):
        EVENTS.labels(outcome).inc(count)
    for reason in reasons:
        QUARANTINED.labels(reason).inc()
    BATCH_EVENTS.observe(counts.inserted + counts.duplicates + counts.quarantined + counts.held + counts.gaps)


def count_corrections(voided: int, amended: int) -> None:
    """Count the corrections of a committed batch."""
    if voided or amended:
        CORRECTIONS.labels("void").inc(voided)
        CORRECTIONS.labels("amend").inc(amended)


def observe_freshness(now: datetime, youngest: datetime | None) -> None:
    """Observe how old the youngest stored event of a batch is, if it has one."""
    if youngest is not None:
        FRESHNESS.observe(max(0.0, (now - youngest).total_seconds()))


def report_held(events: int, oldest_seconds: float) -> None:
    """Set how many events are held, and since when."""
    HELD.set(events)
    HELD_AGE.set(oldest_seconds)
