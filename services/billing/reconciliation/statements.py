"""What reconciliation proves (pure): each statement, its two sides, and the query that compares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Statement:
    """What is proved, and by which query. One check comes of each measure (a quantity, a currency) that the query returns."""

    name: str
    statement: str
    left_label: str
    right_label: str
    query: str
    arguments: tuple[Any, ...] = ()
    eventual: bool = False


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
        "batches.inserted + amended",
        "rows of usage_logs",
        "batches_equal_log",
    ),
    Statement(
        "batches = quarantine",
        "Every record that was refused is kept in quarantine, replayed or discarded since or not.",
        "batches.quarantined",
        "quarantined_events",
        "batches_equal_quarantine",
    ),
    Statement(
        "batches = held",
        "Every event of an unknown subscription or key is kept, attributed or expired since or not.",
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
        "replayed = batches",
        "Every quarantined record that was replayed went through exactly one replay batch.",
        "quarantined_events replayed",
        "batches of replays",
        "replayed_equal_batches",
    ),
    Statement(
        "log = identities",
        "Every row of usage_logs is guarded once against being stored again, at any age.",
        "rows of usage_logs",
        "of them guarded once",
        "log_equals_identities",
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
        "summaries = totals",
        "What everybody used is the sum of the summaries of all subscriptions, by hour, day and month, model and tool.",
        "summaries",
        "totals",
        "summaries_equal_totals",
    ),
    Statement(
        "hours = uses",
        "The hour summaries are the sums of what each app, provider, key, feature and power level used in the hour.",
        "hour summaries",
        "hours of uses",
        "hours_equal_uses",
    ),
    Statement(
        "hours = counters",
        "What each quota is judged by is what was used in its period.",
        "hour summaries in the quota period",
        "used_* counters",
        "hours_equal_counters",
    ),
    Statement(
        "log = key days",
        "What each API key's limit by day is judged by is what was used with it on that day.",
        "usage_logs with a key",
        "days of keys",
        "log_equals_key_days",
    ),
    Statement(
        "reservations = holds",
        "What is held of each subscription's quotas is what its open reservations hold.",
        "open reservations",
        "reservation_holds",
        "reservations_equal_holds",
    ),
    Statement(
        "reserved credits = holds",
        "What is held of each user's credits is what reservations hold whose usage is not debited yet.",
        "reservation_credits",
        "credit_holds",
        "reserved_credits_equal_holds",
    ),
    Statement(
        "batches = aggregator inbox",
        "The aggregator applied every message of every batch, once.",
        "announced by ingest",
        "applied by the aggregator",
        "batches_equal_aggregator_inbox",
        eventual=True,
    ),
    Statement(
        "batches = billing inbox",
        "Billing rated every message of every batch, once.",
        "announced by ingest",
        "rated by billing",
        "batches_equal_billing_inbox",
        eventual=True,
    ),
    Statement(
        "log = rated",
        "All usage of the log was rated or is held for want of a price, by everything that a price distinguishes.",
        "usage_logs",
        "rated_usage",
        "log_equals_rated",
    ),
    Statement(
        "rated = billed",
        "All rated usage is on invoice lines, in settlements, or unbilled: nothing twice, nothing lost.",
        "rated_usage",
        "lines + settlements + unbilled",
        "rated_equals_billed",
    ),
    Statement(
        "lines = provenance",
        "Every invoice line's events and rated usage are what they were when it was made.",
        "events on lines",
        "events of their rated usage",
        "lines_equal_provenance",
    ),
    Statement(
        "settlements = ledger",
        "Every settlement, and every fee of a prepaid subscription, is in the ledger with what it debited and what is owed.",
        "credit_settlements and credit_charges",
        "credit_transactions",
        "settlements_equal_ledger",
    ),
    Statement(
        "ledger = accounts",
        "Every account's balance and debt are the sums of its ledger.",
        "credit_transactions",
        "user_credits",
        "ledger_equals_balances",
    ),
    Statement(
        "ledger is chained",
        "Every ledger entry begins where the one before it ended, and none is missing.",
        "entries",
        "entries that follow",
        "ledger_is_chained",
    ),
    Statement(
        "grants = accounts",
        "What remains of a user's grants of prepaid credits is the balance.",
        "credit_grants",
        "user_credits",
        "grants_equal_balances",
    ),
    Statement(
        "postings = ledger",
        "It is known of every ledger entry which grants paid it, whole.",
        "credit_grant_postings",
        "credit_transactions",
        "postings_equal_ledger",
    ),
    Statement(
        "postings = grants",
        "What remains of every grant is what came in less what went.",
        "credit_grant_postings",
        "credit_grants",
        "postings_equal_grants",
    ),
    Statement(
        "applied = grants in money",
        "What is gone of every grant in money was applied to invoices, and not restored.",
        "credit_applications",
        "credits",
        "applications_equal_money_grants",
    ),
    Statement(
        "invoices = lines",
        "Every issued invoice is the sum of its lines and of its items.",
        "invoices",
        "invoice_lines",
        "invoices_equal_lines",
    ),
    Statement(
        "numbers are gapless",
        "Every number that was taken is on an invoice or a credit note.",
        "numbers taken",
        "numbers on documents",
        "numbers_are_gapless",
    ),
    Statement(
        "credit notes = lines",
        "Every credit note is the sum of its lines and credited on its invoice, and no line gives back more than was invoiced.",
        "credit notes and what invoices say was credited",
        "their lines, and the notes of the invoices",
        "notes_equal_lines",
    ),
    Statement(
        "credited once",
        "What credit notes gave back and later invoices set off is on lines of these, and never more than a note gave.",
        "lines that set off",
        "set off against credit notes",
        "set_offs_equal_lines",
    ),
    Statement(
        "charges credited once",
        "Of no charge of a plan credit notes, late usage and changes of plan gave back more in all than was charged.",
        "given back of charges with credit notes",
        "at most what was charged",
        "charges_credited_once",
    ),
    Statement(
        "invoices = payments",
        "What is paid of every invoice, and what every payment pays, is what was allocated from payments that came.",
        "invoices and payments",
        "payment_allocations",
        "paid_equals_allocations",
    ),
    Statement(
        "payments = refunds",
        "What was given back of every payment is the sum of its refunds that were made.",
        "payments",
        "payment_refunds",
        "refunded_equals_refunds",
    ),
    Statement(
        "packages = credits bought",
        "Every package that was paid for is one purchase in the ledger, and every such purchase was paid for.",
        "payments for packages",
        "purchases in the ledger",
        "packages_equal_purchases",
    ),
    Statement(
        "history = payments",
        "Customers are told of every payment and refund once, and what became of it.",
        "payments and refunds",
        "billing_history",
        "history_equals_payments",
    ),
)
