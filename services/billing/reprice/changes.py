"""What a correction of prices changes (pure): which rated usage has another price now, and what it comes to by that.

An amount is linear in the quantities, so usage that one price and factor have rated alike can be summed first and rated
again as a whole: the difference is the same as event by event. Factors stay as they were frozen with the usage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from services.billing.rating.rating import COMPONENTS, Factors, Price, PriceBook, Rated, RatedRow, amount, cost
from services.billing.rating.usage import Payer, Quantities, UsageKey
from shared.money import exact
from shared.period import Period

_NO_FACTORS: Final = Factors({}, Decimal(0))


@dataclass(frozen=True, slots=True)
class RatedGroup:
    """Usage of one key that one price and factor have rated: its net quantities and what they came to, in `payer.currency`."""

    key: UsageKey
    payer: Payer
    price_id: UUID
    multiplier: Decimal
    used: Quantities
    amount: Decimal
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Rerated:
    """A group and what it comes to by the price that is in force for it now."""

    group: RatedGroup
    old: Price
    new: Rated


@dataclass(frozen=True, slots=True)
class Change:
    """What a customer's line comes to before and after, exactly, in `currency`."""

    user_id: UUID
    subscription_id: UUID
    subject: str
    power_level: str
    byok: bool
    billing_mode: str
    currency: str
    events: int
    before: Decimal
    after: Decimal

    @property
    def difference(self) -> Decimal:
        """What the customer pays more; negative: gets back."""
        with exact():
            return self.after - self.before


def same_terms(one: Price, other: Price) -> bool:
    """Return whether two prices charge and cost the same, whenever they are in force."""
    return (one.bills_errors, one.cost, one.unit) == (other.bills_errors, other.cost, other.unit) and all(
        one.unit_price(component) == other.unit_price(component) for component in COMPONENTS
    )


def correct(price: Price, period: Period, versions: Iterable[Price]) -> Price | None:
    """Return `price` as a revision that stands over `versions` within the period; None if it is in force there already.

    `versions` are all of its subject and currency. Raises `ValueError` if it is not valid at any hour of the period.
    """
    start = max(price.valid_from, period.start)
    end = min(price.valid_to or period.end, period.end)
    if start >= end:
        raise ValueError(
            f"the price of {price.kind} {price.subject} is valid from {price.valid_from.isoformat()} on, outside {period}"
        )
    over = [v for v in versions if v.valid_from < end and (v.valid_to is None or v.valid_to > start)]
    book = PriceBook.of(over, _NO_FACTORS)
    hours = sorted({start, *(at for v in over for at in (v.valid_from, v.valid_to) if at and start < at < end)})
    in_force = [book.find(price.kind, price.subject, price.currency, at) for at in hours]
    if all(found and same_terms(found, price) for found in in_force):
        return None
    return replace(price, valid_from=start, valid_to=end, revision=1 + max((v.revision for v in over), default=-1))


def edges(prices: Iterable[Price], period: Period) -> list[datetime]:
    """Return the start of the period and every time within it at which another price comes into force: usage between two of
    them can be rated as a whole."""
    times = {at for price in prices for at in (price.valid_from, price.valid_to) if at is not None and at in period}
    return sorted({period.start, *times})


def rerate(groups: Iterable[RatedGroup], book: PriceBook, prices: Mapping[UUID, Price]) -> Iterator[Rerated]:
    """Yield the groups for which another price is in force than the one that rated them, with what they come to by it."""
    for group in groups:
        old, new = prices[group.price_id], book.price_of(group.key, group.payer.currency)
        if new is None or new.id == old.id or same_terms(new, old):
            continue
        worth = amount(group.key, group.used, new, group.multiplier)
        yield Rerated(group, old, Rated(new, group.multiplier, worth, cost(group.key, group.used, new)))


def changes(rerated: Iterable[Rerated]) -> list[Change]:
    """Sum what is rerated by what an invoice shows on a line: subscription, what was used, power level, whose key."""
    sums: dict[tuple[UUID, UUID, str, str, bool, str, str], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
    with exact():
        for group, new in ((r.group, r.new) for r in rerated):
            key, payer = group.key, group.payer
            subject = key.model_id or key.tool_name or key.feature_type
            line = sums[
                payer.user_id,
                key.subscription_id,
                subject,
                key.power_level,
                key.byok,
                payer.billing_mode,
                payer.currency,
            ]
            line[0] += group.used.requests
            line[1] += group.amount
            line[2] += new.amount
    return [Change(*line, int(events), before, after) for line, (events, before, after) in sorted(sums.items())]


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one rating run: it has at most one of each key. All take back what was rated, or all charge anew."""

    takes_back: bool
    rows: list[RatedRow]


def corrections(rerated: Iterable[Rerated]) -> list[Run]:
    """Return the rows that correct what is rerated, by run.

    A group becomes two rows: its quantities taken back at the old price, and charged at the new one.
    """
    backs: list[Run] = []
    charges: list[Run] = []
    taken: dict[UsageKey, int] = defaultdict(int)
    for one in rerated:
        group, number = one.group, taken[one.group.key]
        taken[group.key] += 1
        if number == len(backs):
            backs.append(Run(takes_back=True, rows=[]))
            charges.append(Run(takes_back=False, rows=[]))
        refund = Rated(one.old, group.multiplier, -group.amount, None if group.cost is None else -group.cost)
        backs[number].rows.append(RatedRow(group.key, negated(group.used), group.payer, refund))
        charges[number].rows.append(RatedRow(group.key, group.used, group.payer, one.new))
    return [*backs, *charges]


def negated(used: Quantities) -> Quantities:
    """Return quantities that take back `used`."""
    return Quantities(
        requests=-used.requests,
        errors=-used.errors,
        request_tokens=-used.request_tokens,
        response_tokens=-used.response_tokens,
        cached_tokens=-used.cached_tokens,
        tokens_returned=-used.tokens_returned,
        latency_ms=-used.latency_ms,
        first_event_at=used.first_event_at,
        last_event_at=used.last_event_at,
    )


def totals(found: Sequence[Change]) -> dict[str, tuple[Decimal, Decimal]]:
    """Return what all changes come to before and after, by currency: several currencies never mix."""
    sums: dict[str, tuple[Decimal, Decimal]] = {}
    with exact():
        for change in found:
            before, after = sums.get(change.currency, (Decimal(0), Decimal(0)))
            sums[change.currency] = (before + change.before, after + change.after)
    return sums
