"""Billing's metrics: meaning, unit and labels in one place. Never a tenant in a label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from prometheus_client import Counter, Gauge, Histogram

from services.billing.credits.credits import Settlement
from services.billing.rating.rating import RatedRow
from services.billing.reconciliation.statements import STATEMENTS
from shared.contracts import UsageRecorded

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 3_600)

MESSAGES = Counter(
    "usage_billing_messages",
    "usage.recorded messages, by outcome: rated, duplicate, orphaned (its batch is lost: the database went back in time).",
    ["outcome"],
)
EVENTS = Counter("usage_billing_events", "Usage events, by outcome: rated, held, taken_back.", ["outcome"])
DELTAS = Counter("usage_billing_deltas", "Deltas that were rated or held.")
RATED_AMOUNT = Counter(
    "usage_billing_rated_amount", "Worth of rated usage, in its currency.", ["currency", "billing_mode"]
)
AMOUNT_TAKEN_BACK = Counter(
    "usage_billing_taken_back_amount",
    "Worth of usage that was rated and taken back, in its currency.",
    ["currency", "billing_mode"],
)
SLICE_SECONDS = Histogram(
    "usage_billing_slice_seconds", "Time to decode, rate and store one slice, without its COMMIT.", buckets=_SECONDS
)
RECORDED_FRESHNESS = Histogram(
    "usage_billing_recorded_freshness_seconds",
    "From a batch being recorded by ingest to its usage being rated and committed.",
    buckets=_SECONDS,
)
HELD_EVENTS = Gauge(
    "usage_billing_unrated_events", "Usage events that wait for a price: they are not billed until there is one."
)
HELD_AGE = Gauge("usage_billing_unrated_oldest_seconds", "Age of the earliest hour of usage that waits for a price.")
HELD_RATED = Counter(
    "usage_billing_held_rated_events", "Usage events that were rated after they had waited for a price."
)

SETTLEMENTS = Counter("usage_billing_settlements", "Settlements of prepaid usage: one for each user and window.")
SETTLEMENT_FAILURES = Counter("usage_billing_settlement_failures", "Settlements that failed and are tried again.")
DEBITED = Counter("usage_billing_debited_credits", "Credits that settlements took from balances.")
OWED = Counter(
    "usage_billing_owed_credits", "Credits that settlements booked as owed, because balances did not cover them."
)
RETURNED = Counter("usage_billing_returned_credits", "Credits that settlements gave back for usage that was voided.")
UNCONVERTIBLE = Gauge(
    "usage_billing_unconvertible_accounts",
    "Accounts (by currency) whose prepaid usage waits, because its currency has no rate of credits: set one.",
)
OWED_NOW = Gauge("usage_billing_owed_credits_now", "Credits that all users owe at present.")
OWING_USERS = Gauge("usage_billing_owing_users", "Users who owe credits at present.")

INVOICES = Counter("usage_billing_invoices", "Invoices issued, by currency.", ["currency"])
INVOICED = Counter("usage_billing_invoiced_amount", "Totals of issued invoices.", ["currency"])
CLOSING_FAILURES = Counter(
    "usage_billing_closing_failures", "Customers whose period could not be closed; tried again with the next run."
)
JOB_RUNS = Counter(
    "usage_billing_job_runs", "Runs of scheduled jobs, by outcome: done, failed.", ["job_name", "outcome"]
)
JOB_FINISHED = Gauge(
    "usage_billing_job_finished_timestamp_seconds",
    "When a job last finished, whichever worker ran it, as Unix time.",
    ["job_name"],
)
JOB_OVERDUE = Gauge(
    "usage_billing_job_overdue_seconds",
    "For how long a run of a job should have been made that was not, or failed; 0 if all were.",
    ["job_name"],
)
DIFFERING = Gauge(
    "usage_billing_differing_checks",
    "Checks of the last reconciliation, by whichever worker, that did not hold; what was only under way is not counted.",
)
CHECK_DIFFERS = Gauge(
    "usage_billing_check_differs",
    "1 if a check did not hold at the last reconciliation, else 0. Checks of messages on their way only matter when it stays 1.",
    ["check"],
)
RECONCILED = Gauge("usage_billing_reconciled_timestamp_seconds", "When the last reconciliation ended, as Unix time.")

WEBHOOK_ATTEMPTS = Counter(
    "usage_billing_webhook_attempts",
    "Requests to webhook endpoints, by outcome: delivered, refused, redirected, timeout, unreachable, forbidden, unsigned.",
    ["outcome"],
)
WEBHOOK_SECONDS = Histogram(
    "usage_billing_webhook_seconds", "Time that a request to a webhook endpoint took.", buckets=_SECONDS
)
WEBHOOKS_GIVEN_UP = Counter("usage_billing_webhooks_given_up", "Deliveries that failed as often as they may.")
WEBHOOKS_WAITING = Gauge("usage_billing_webhooks_waiting", "Deliveries that wait to be made, at enabled endpoints.")
WEBHOOKS_OVERDUE = Gauge("usage_billing_webhooks_overdue_seconds", "How long the most overdue delivery has been due.")
WEBHOOKS_DISABLED = Gauge("usage_billing_webhook_endpoints_disabled", "Endpoints that are not written to.")
ALERTS = Counter("usage_billing_alerts", "Alerts that were raised by looking, by type.", ["type"])

for _outcome in ("rated", "duplicate", "orphaned"):
    MESSAGES.labels(_outcome)
for _outcome in ("rated", "held", "taken_back"):
    EVENTS.labels(_outcome)


def count_outcomes(*, rated: int, duplicates: int, orphaned: int) -> None:
    """Count what became of the messages of a committed slice."""
    MESSAGES.labels("rated").inc(rated)
    MESSAGES.labels("duplicate").inc(duplicates)
    MESSAGES.labels("orphaned").inc(orphaned)


def count_slice(applied: Sequence[UsageRecorded], rows: Sequence[RatedRow], now: datetime) -> None:
    """Count what a committed slice was worth and observe how fresh it is. What is taken back counts by itself: counters only grow."""
    DELTAS.inc(sum(len(message.deltas) for message in applied))
    events: dict[str, int] = defaultdict(int)
    worth: dict[tuple[str, str], float] = defaultdict(float)
    back: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        outcome = "taken_back" if row.used.requests < 0 else "held" if row.rated is None else "rated"
        events[outcome] += abs(row.used.requests)
        if row.rated is not None:
            amounts = back if row.rated.amount < 0 else worth
            amounts[row.payer.currency, row.payer.billing_mode] += abs(float(row.rated.amount))
    for outcome, count in events.items():
        EVENTS.labels(outcome).inc(count)
    for labels, amount in worth.items():
        RATED_AMOUNT.labels(*labels).inc(amount)
    for labels, amount in back.items():
        AMOUNT_TAKEN_BACK.labels(*labels).inc(amount)
    for message in applied:
        RECORDED_FRESHNESS.observe(max(0.0, (now - message.recorded_at).total_seconds()))


def count_settlements(settlements: Iterable[Settlement]) -> None:
    """Count committed settlements."""
    for settlement in settlements:
        SETTLEMENTS.inc()
        DEBITED.inc(float(max(settlement.debited, Decimal(0))))
        OWED.inc(float(max(settlement.owed, Decimal(0))))
        RETURNED.inc(float(max(-settlement.credits, Decimal(0))))


def report_reconciliation(finished_at: datetime, differing: Collection[str], under_way: Collection[str]) -> None:
    """Set the verdict on every check. A name is a statement's, or that with a measure after a colon."""
    DIFFERING.set(len(differing))
    broken = {name.partition(": ")[0] for name in (*differing, *under_way)}
    for statement in STATEMENTS:
        CHECK_DIFFERS.labels(statement.name).set(statement.name in broken)
    RECONCILED.set(finished_at.timestamp())


def report_webhooks(waiting: int, overdue_seconds: float, disabled: int) -> None:
    """Set how far webhooks are behind."""
    WEBHOOKS_WAITING.set(waiting)
    WEBHOOKS_OVERDUE.set(overdue_seconds)
    WEBHOOKS_DISABLED.set(disabled)


def report_held(events: int, since: datetime | None, now: datetime) -> None:
    """Set how much usage waits for a price, and since when."""
    HELD_EVENTS.set(events)
    HELD_AGE.set(max(0.0, (now - since).total_seconds()) if since else 0)


def report_owed(owed: Decimal, users: int) -> None:
    """Set what is owed at present."""
    OWED_NOW.set(float(owed))
    OWING_USERS.set(users)


def count_invoice(currency: str, total: Decimal) -> None:
    """Count an issued invoice."""
    INVOICES.labels(currency).inc()
    INVOICED.labels(currency).inc(float(total))
