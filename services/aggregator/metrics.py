"""The aggregator's metrics: meaning, unit and labels in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from services.aggregator.aggregation import Folded
from shared.contracts import UsageRecorded, youngest_event

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 3_600)

MESSAGES = Counter(
    "usage_aggregator_messages",
    "usage.recorded messages, by outcome: applied, duplicate, orphaned (its batch is lost: the database went back in time).",
    ["outcome"],
)
EVENTS = Counter("usage_aggregator_events", "Usage events that were added to summaries, or taken out of them again.")
FOLD_DELTAS = Histogram(
    "usage_aggregator_fold_deltas",
    "Deltas that were folded into one transaction.",
    buckets=(1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000),
)
SUMMARY_ROWS = Counter("usage_aggregator_summary_rows", "Summary rows that were added to, by period.", ["period"])
SLICE_SECONDS = Histogram(
    "usage_aggregator_slice_seconds", "Time to decode, fold and store one slice, without its COMMIT.", buckets=_SECONDS
)
RECORDED_FRESHNESS = Histogram(
    "usage_aggregator_recorded_freshness_seconds",
    "From a batch being recorded by ingest to its summaries being committed.",
    buckets=_SECONDS,
)
EVENT_FRESHNESS = Histogram(
    "usage_aggregator_event_freshness_seconds",
    "From the youngest event time of a batch to its summaries being committed.",
    buckets=_SECONDS,
)
SUSPENSIONS = Counter("usage_aggregator_suspensions", "Reasons of suspension that quotas brought about.", ["reason"])
REACTIVATIONS = Counter(
    "usage_aggregator_reactivations",
    "Suspended subscriptions that came back: by a new quota period, or because usage was taken back.",
)
RESETS = Counter("usage_aggregator_quota_resets", "Quota periods that were rolled.")
THRESHOLDS = Counter("usage_aggregator_thresholds", "Alerts of a used percentage of a quota.", ["percent"])
UNKNOWN_SUBSCRIPTIONS = Counter(
    "usage_aggregator_unknown_subscriptions", "Subscriptions in deltas that do not exist: summed, but counted nowhere."
)
STATUSES_PUBLISHED = Counter("usage_aggregator_statuses_published", "subscription.status messages acknowledged.")
STATUS_FRESHNESS = Histogram(
    "usage_aggregator_status_freshness_seconds",
    "From the youngest event time of a batch that changed a status (a suspension, say) to the message being acknowledged that tells gateways.",
    buckets=_SECONDS,
)
STATUS_FAILURES = Counter("usage_aggregator_status_failures", "Rounds of status publication that failed.")
INBOX_PRUNED = Counter(
    "usage_aggregator_inbox_pruned", "Messages that the inbox forgot: their batches are below its watermark."
)
RESERVATIONS = Counter(
    "usage_aggregator_reservations",
    "Reservations, by outcome: settled by their usage; passed_over, because they were not open, not known, or another subscription's; expired.",
    ["outcome"],
)
RESERVATIONS_OPEN = Gauge("usage_aggregator_reservations_open", "Reservations that hold a part of a quota.")
PROVIDER_SUCCESS = Gauge(
    "usage_aggregator_provider_success_ratio",
    "Share of a provider's requests that succeeded, last minutes.",
    ["provider"],
)

for _outcome in ("applied", "duplicate", "orphaned"):
    MESSAGES.labels(_outcome)
for _outcome in ("settled", "passed_over", "expired"):
    RESERVATIONS.labels(_outcome)
for _reason in ("quota_requests", "quota_tokens"):
    SUSPENSIONS.labels(_reason)


def count_outcomes(*, applied: int, duplicates: int, orphaned: int) -> None:
    """Count what became of the messages of a committed slice."""
    MESSAGES.labels("applied").inc(applied)
    MESSAGES.labels("duplicate").inc(duplicates)
    MESSAGES.labels("orphaned").inc(orphaned)


def count_reservations(*, settled: int = 0, passed_over: int = 0, expired: int = 0) -> None:
    """Count what became of reservations."""
    RESERVATIONS.labels("settled").inc(settled)
    RESERVATIONS.labels("passed_over").inc(passed_over)
    RESERVATIONS.labels("expired").inc(expired)


def count_slice(applied: Sequence[UsageRecorded], folded: Folded, now: datetime) -> None:
    """Count what a committed slice added and observe how fresh it is."""
    EVENTS.inc(folded.events)
    FOLD_DELTAS.observe(folded.deltas)
    for period, rows in folded.rows_by_period.items():
        SUMMARY_ROWS.labels(period).inc(rows)
    for message in applied:
        RECORDED_FRESHNESS.observe(_age(now, message.recorded_at))
        if (youngest := youngest_event(message.deltas)) is not None:
            EVENT_FRESHNESS.observe(_age(now, youngest))


def observe_status_freshness(event_times: Iterable[datetime], now: datetime) -> None:
    """Observe how old the usage is behind changes of status that were acknowledged."""
    for event_time in event_times:
        STATUS_FRESHNESS.observe(_age(now, event_time))


def count_quota(suspended: Iterable[str], reactivated: int, rolled: int, percents: Iterable[int]) -> None:
    """Count what committed changes of the counters brought about: reasons of suspension, reactivations, resets, thresholds."""
    for reason in suspended:
        SUSPENSIONS.labels(reason).inc()
    REACTIVATIONS.inc(reactivated)
    RESETS.inc(rolled)
    for percent in percents:
        THRESHOLDS.labels(str(percent)).inc()


def _age(now: datetime, at: datetime) -> float:
    return max(0.0, (now - at).total_seconds())
