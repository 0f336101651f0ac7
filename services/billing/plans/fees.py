"""Flat fees (pure): in advance when an interval begins, in arrears when it ends; a change within an interval is credited and charged.

Each charge names the time at which it falls due, so that every charge belongs to exactly one of periods that tile the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Final, NamedTuple
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.plans.charge import Charge, ChargeKind
from services.billing.plans.intervals import share
from services.billing.plans.terms import PlanTerms
from services.billing.plans.timeline import Interval, Span
from shared.period import Period

_ONE: Final = Decimal(1)
_SECOND: Final = timedelta(seconds=1)


class Due(NamedTuple):
    """A charge in its currency, the interval that it belongs to, and when it falls due."""

    currency: str
    charge: Charge
    interval: Interval
    due_at: datetime


def fees_due(subscription_id: UUID, intervals: list[Interval], period: Period) -> Iterator[Due]:
    """Yield the fees, and the prorations of changes, that fall due in `period`.

    In advance and prorations: at a time within `[period.start, period.end)`; in arrears: at the end of an interval within
    `(period.start, period.end]`.
    """
    for interval in intervals:
        for charge, currency in _in_advance(subscription_id, interval):
            if charge.period_start in period:
                yield Due(currency, charge, interval, charge.period_start)
        if period.start < interval.ends <= period.end:
            yield from (
                Due(currency, c, interval, interval.ends) for c, currency in _in_arrears(subscription_id, interval)
            )


def accrued(interval: Interval, spans: list[Span], currency: str) -> Decimal:
    """Return what the flat fees of some spans of an interval come to, whenever they fall due."""
    return sum(
        (
            share(s.terms.amount, interval.whole, s.start, s.end)
            for s in spans
            if s.phase == "live" and s.terms.currency == currency
        ),
        Decimal(0),
    )


def _in_advance(subscription_id: UUID, interval: Interval) -> Iterator[tuple[Charge, str]]:
    """Yield what is charged to the end of the interval, and what of that is credited when other terms take over."""
    paid: Span | None = None
    for span in interval.spans:
        if paid and span.fee != paid.fee and span.phase != "ended":
            yield _credit(subscription_id, interval, paid, span.start), paid.terms.currency
            paid = None
        if paid is None and span.phase == "live" and not span.terms.in_arrears and span.terms.amount > 0:
            changed = span is not interval.spans[0] and any(
                s.phase == "live" for s in interval.spans if s.start < span.start
            )
            yield _fee(subscription_id, interval, span, changed=changed), span.terms.currency
            paid = span
    if paid and interval.goes_on:
        yield _credit(subscription_id, interval, paid, interval.ends), paid.terms.currency


def _in_arrears(subscription_id: UUID, interval: Interval) -> Iterator[tuple[Charge, str]]:
    live = [s for s in interval.spans if s.phase == "live" and s.terms.in_arrears and s.terms.amount > 0]
    for _, same in groupby(live, lambda s: s.fee):
        spans = list(same)
        terms = spans[0].terms
        amount = accrued(interval, spans, terms.currency)
        start, end = spans[0].start, spans[-1].end
        whole = amount == terms.amount
        yield (
            Charge(
                subscription_id=subscription_id,
                kind="fee",
                key=key("fee", subscription_id, start),
                description=f"{terms.name}, {dates(start, end)}{'' if whole else ' (prorated)'}",
                quantity=_ONE,
                unit="fee",
                unit_price=amount,
                amount=amount,
                period_start=start,
                period_end=end,
                metadata=_metadata(terms, interval),
            ),
            terms.currency,
        )


def _fee(subscription_id: UUID, interval: Interval, span: Span, *, changed: bool) -> Charge:
    begins, ends = interval.whole
    whole = span.start == begins
    kind: ChargeKind = "proration" if changed else "fee"
    amount = share(span.terms.amount, interval.whole, span.start, ends)
    return Charge(
        subscription_id=subscription_id,
        kind=kind,
        key=key("proration" if changed else "fee", subscription_id, span.start, "charge" if changed else None),
        description=f"{span.terms.name}, from {span.start:%-d %B %Y}" if whole else f"{span.terms.name}, {dates(span.start, ends)} (prorated)",
        quantity=_ONE,
        unit="fee",
        unit_price=amount,
        amount=amount,
        period_start=span.start,
        period_end=ends,
        metadata=_metadata(span.terms, interval),
    )  # fmt: skip


def _credit(subscription_id: UUID, interval: Interval, paid: Span, at: datetime) -> Charge:
    ends = interval.whole[1]
    amount = -share(paid.terms.amount, interval.whole, at, ends)
    return Charge(
        subscription_id=subscription_id,
        kind="proration",
        key=key("proration", subscription_id, at, "credit"),
        description=f"Credit for {paid.terms.name}, unused {dates(at, ends)}",
        quantity=_ONE,
        unit="fee",
        unit_price=amount,
        amount=amount,
        period_start=at,
        period_end=ends,
        metadata=_metadata(paid.terms, interval),
    )


def _metadata(terms: PlanTerms, interval: Interval) -> dict[str, str | None]:
    begins, ends = interval.whole
    return {
        "plan": terms.plan_id,
        "plan_version": str(terms.id) if terms.id else None,
        "fee": amount_text(terms.amount),
        "interval_start": begins.isoformat(),
        "interval_end": ends.isoformat(),
    }


def key(kind: str, subscription_id: UUID, at: datetime, part: str | None = None) -> str:
    """Return the key of a charge: what it is, of whom, from when."""
    return ":".join(filter(None, (kind, str(subscription_id), f"{at:%Y-%m-%dT%H:%M:%SZ}", part)))


def dates(start: datetime, end: datetime) -> str:
    """Return `[start, end)` as a customer reads it: the first and the last day."""
    return f"{start:%-d %B %Y} to {end - _SECOND:%-d %B %Y}"
