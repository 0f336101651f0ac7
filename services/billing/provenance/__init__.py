"""Provenance: from an invoice line, a debit or a summary back to the usage events behind it."""

from services.billing.provenance.explain import (
    NothingToExplain,
    events_behind,
    explain_debit,
    explain_line,
    is_line,
    lines_of,
    some_events_behind,
)
from services.billing.provenance.explanation import Explanation, PriceUsed
from services.billing.provenance.set_offs import SetOffExplanation, explain_set_off
from services.billing.provenance.summaries import (
    SummaryExplanation,
    SummaryName,
    events_of,
    explain_summary,
    parse_summary,
    some_events_of,
)

__all__ = [
    "Explanation",
    "NothingToExplain",
    "PriceUsed",
    "SetOffExplanation",
    "SummaryExplanation",
    "SummaryName",
    "events_behind",
    "events_of",
    "explain_debit",
    "explain_line",
    "explain_set_off",
    "explain_summary",
    "is_line",
    "lines_of",
    "parse_summary",
    "some_events_behind",
    "some_events_of",
]
