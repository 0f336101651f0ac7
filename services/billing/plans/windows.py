"""What a plan makes of usage (pure): coverage, overage and minimum of each interval, and what usage that came late changes of them.

Nothing is marked as charged: each window's charges are computed from all usage that has been invoiced so far, and what was billed
under the same key before is subtracted. So usage that arrives after its window was charged is a difference with a key of its own,
and what was charged stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.plans.charge import Charge, ChargeKind
from services.billing.plans.fees import accrued, dates, key
from services.billing.plans.intervals import share, whole_share
from services.billing.plans.meters import MEASURES, Meter, UsageSum
from services.billing.plans.terms import PlanTerms
from services.billing.plans.timeline import Interval, Span
from shared.money import exact
from shared.period import Period

ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of an interval in which one version of one plan was in force; an hour of usage belongs to the window it begins in."""

    subscription_id: UUID
    interval: Interval
    spans: Sequence[Span]

    @property
    def start(self) -> datetime:
        return self.spans[0].start

    @property
    def end(self) -> datetime:
        return self.spans[-1].end

    @property
    def terms(self) -> PlanTerms:
        return self.spans[0].terms

    @property
    def in_trial(self) -> bool:
        """Whether all of it is a trial: what is included then is not a share of it."""
        return all(span.phase == "trial" for span in self.spans)


@dataclass(frozen=True, slots=True)
class Billed:
    """What was billed under a key and its continuations: the sum, and the number of the last: one of an invoice that was voided for
    rebilling is free again, and those after it are not."""

    amount: Decimal = ZERO
    charges: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """What a key should come to by now; `quantity` of `unit` at `unit_price` where that is its product."""

    kind: ChargeKind
    name: str
    description: str
    currency: str
    amount: Decimal
    quantity: Decimal = _ONE
    unit: str = "period"
    unit_price: Decimal | None = None
    metadata: Mapping[str, Any] | None = None


def windows(subscription_id: UUID, intervals: Sequence[Interval]) -> Iterator[Window]:
    """Yield the windows of intervals, in order."""
    for interval in intervals:
        for _, same in groupby(interval.spans, lambda s: (s.terms.id, s.terms.plan_id)):
            yield Window(subscription_id, interval, tuple(same))


def charges(
    window: Window,
    sums: Sequence[UsageSum],
    usage_currency: str,
    billed: Callable[[str], Billed],
    period: Period,
    *,
    discounted: Callable[[Decimal], Iterator[Target]],
) -> Iterator[tuple[str, Charge]]:
    """Yield what is still to be charged (or given back) for a window, given all of its usage that has been invoiced, by currency.

    What depends on the whole of a window waits until it has ended within `period` or before. `discounted` says what coupons take off an amount.
    """
    for target in _targets(window, sums, usage_currency, discounted, ended=window.end <= period.end):
        base = key(target.name, window.subscription_id, window.start)
        before = billed(base)
        with exact():
            difference = target.amount - before.amount
        if difference:
            late = window.end <= period.start
            yield target.currency, _charge(window, target, base, before, difference, late=late)


def _targets(
    window: Window,
    sums: Sequence[UsageSum],
    usage_currency: str,
    discounted: Callable[[Decimal], Iterator[Target]],
    *,
    ended: bool,
) -> Iterator[Target]:
    terms = window.terms
    with exact():
        used = sum((s.amount for s in sums), ZERO)
        covered = used if terms.includes_usage else ZERO
        yield Target("discount", "included", f"Usage included in {terms.name}", usage_currency, -covered)
        if not ended:
            return
        overages = [_overage(window, meter, sums) for meter in terms.meters]
        yield from overages
        usage = used - covered if usage_currency == terms.currency else ZERO
        spent = usage + sum((overage.amount for overage in overages), ZERO)
        if terms.minimum is not None:
            yield _minimum(window, terms.minimum, spent)
    if usage_currency == terms.currency:
        yield from discounted(spent)


def _overage(window: Window, meter: Meter, sums: Sequence[UsageSum]) -> Target:
    terms = window.terms
    included = meter.included
    if not window.in_trial:
        included = whole_share(included, window.interval.whole, window.start, window.end)
    used = meter.quantity(sums)
    excess = max(ZERO, used - included)
    quantity, unit, unit_price = meter.unit_price(excess) or (excess, MEASURES[meter.measure], None)
    return Target(
        "overage",
        f"overage.{meter.key}",
        f"{terms.name}: {amount_text(excess)} {meter.name} beyond {amount_text(included)} included" if included
        else f"{terms.name}: {amount_text(excess)} {meter.name}",
        terms.currency,
        meter.price(excess),
        quantity,
        unit,
        unit_price,
        {
            "meter": meter.key, "mode": meter.mode, "used": amount_text(used), "included": amount_text(included),
            "excess": amount_text(excess),
        },
    )  # fmt: skip


def _minimum(window: Window, minimum: Decimal, spent: Decimal) -> Target:
    """Return what is missing to the minimum, of which the time that was paid for is owed, after fees and usage."""
    terms, whole = window.terms, window.interval.whole
    live = [span for span in window.spans if span.phase == "live"]
    promised = sum((share(minimum, whole, span.start, span.end) for span in live), ZERO)
    reached = spent + accrued(window.interval, live, terms.currency)
    return Target(
        "minimum",
        "minimum",
        f"{terms.name}: minimum of {amount_text(promised)} {terms.currency}",
        terms.currency,
        max(ZERO, promised - reached),
        metadata={"minimum": amount_text(promised), "reached": amount_text(reached)},
    )


def _charge(window: Window, target: Target, base: str, before: Billed, difference: Decimal, *, late: bool) -> Charge:
    first = before.charges == 0
    times = dates(window.start, window.end)
    return Charge(
        subscription_id=window.subscription_id,
        kind=target.kind,
        key=base if first else f"{base}#{before.charges + 1}",
        description=f"{target.description}, {times}" if first or target.name == "included" else f"{target.description}, {times} (late usage)",
        quantity=target.quantity if first else _ONE,
        unit=target.unit if first else "adjustment",
        unit_price=target.unit_price if first else None,
        amount=difference,
        period_start=window.start,
        period_end=window.end,
        metadata={
            "plan": window.terms.plan_id,
            "plan_version": str(window.terms.id) if window.terms.id else None,
            **(target.metadata or {}),
            **({"late": True} if late else {}),
            **({} if first else {"charged_before": amount_text(before.amount), "comes_to": amount_text(target.amount)}),
        },
    )  # fmt: skip
