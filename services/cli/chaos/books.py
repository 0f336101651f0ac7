"""What a correct pipeline must make of what was sent (pure): the independent model that everything is compared with.

It is told of every record that is published, and never asks the database. It knows the rules that a customer knows: an
event counts once, whoever sends it again; failed requests cost nothing; prices are per token, in force from a day on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Final, NamedTuple, TypeAlias

from services.cli.chaos.world import CHANGE_DAY, CREDITS_PER_UNIT, ITEMS, POWER_LEVELS, Customer, Subscription, World

_EXACT: Final = Context(prec=200)
_THOUSANDTH: Final = Decimal("0.001")


class Kind(NamedTuple):
    """What distinguishes usage in the books: who, on which day, of what, and how."""

    subscription: int
    day: int
    item: int
    power: int
    byok: bool
    ok: bool


Figures: TypeAlias = tuple[int, int, int, int]
"""Prompt, answer and cached tokens, and latency, of one event."""


class Usage(NamedTuple):
    """Sums over events."""

    requests: int = 0
    request_tokens: int = 0
    response_tokens: int = 0
    cached_tokens: int = 0
    latency_ms: int = 0

    def __add__(self, other: Usage) -> Usage:  # type: ignore[override]
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def tokens(self) -> int:
        return self.request_tokens + self.response_tokens


@dataclass(slots=True)
class Books:
    """The books of one run. `usage` sums valid, distinct events; all other records are counted by what becomes of them."""

    world: World
    usage: dict[Kind, list[int]] = field(default_factory=dict)
    published: int = 0
    duplicates: int = 0
    held: int = 0
    announced_losses: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    record_faults: Counter[str] = field(default_factory=Counter)
    """Records that were sent to do harm, by kind: they are part of the traffic."""

    def accept(
        self, kind: Kind, request_tokens: int, response_tokens: int, cached_tokens: int, latency_ms: int
    ) -> None:
        """Enter a valid event that is sent for the first time."""
        self.published += 1
        sums = self.usage.get(kind)
        if sums is None:
            sums = self.usage[kind] = [0, 0, 0, 0, 0]
        sums[0] += 1
        sums[1] += request_tokens
        sums[2] += response_tokens
        sums[3] += cached_tokens
        sums[4] += latency_ms

    def correct(self, what: str, kind: Kind, taken_back: Figures, instead: tuple[Kind, Figures] | None = None) -> None:
        """Enter a correction: an event is taken back, and perhaps another one counts in its place."""
        self.published += 1
        self.record_faults[what] += 1
        self._add(kind, -1, taken_back)
        if instead:
            self._add(instead[0], 1, instead[1])

    def _add(self, kind: Kind, sign: int, figures: Figures) -> None:
        sums = self.usage.setdefault(kind, [0, 0, 0, 0, 0])
        sums[:] = [a + sign * b for a, b in zip(sums, (1, *figures), strict=True)]

    def resent(self, what: str) -> None:
        """Enter an event that was sent before, byte for byte."""
        self.published += 1
        self.duplicates += 1
        self.record_faults[what] += 1

    def refuse(self, what: str, reason: str) -> None:
        """Enter a record that must be quarantined for `reason`."""
        self.published += 1
        self.refused[reason] += 1
        self.record_faults[what] += 1

    def hold(self, what: str) -> None:
        """Enter a valid event of a subscription that nobody will ever know."""
        self.published += 1
        self.held += 1
        self.record_faults[what] += 1

    def lose(self, records: int) -> None:
        """Enter records that the broker deletes before they are read: a loss that must be announced."""
        self.published += records
        self.announced_losses += records

    def add(self, other: Books) -> None:
        """Enter all of another book of the same world."""
        for kind, sums in other.usage.items():
            mine = self.usage.setdefault(kind, [0, 0, 0, 0, 0])
            mine[:] = [a + b for a, b in zip(mine, sums, strict=True)]
        self.published += other.published
        self.duplicates += other.duplicates
        self.held += other.held
        self.announced_losses += other.announced_losses
        self.refused += other.refused
        self.record_faults += other.record_faults

    # --- what follows from it -----------------------------------------------------------------------------------------

    @property
    def events(self) -> int:
        """Rows that must be in the log."""
        return sum(sums[0] for sums in self.usage.values())

    def entries(self) -> Iterator[tuple[Kind, Usage]]:
        """Yield the sums of every kind of usage, but of those that were taken back altogether."""
        for kind, sums in self.usage.items():
            if any(sums):
                yield kind, Usage(*sums)

    def amounts(self) -> dict[int, Decimal]:
        """Return what each subscription's usage is worth, exactly, by its number."""
        total: dict[int, Decimal] = defaultdict(Decimal)
        for kind, used in self.entries():
            total[kind.subscription] = _EXACT.add(total[kind.subscription], price_of(kind, used))
        return total

    def counters(self) -> dict[int, tuple[int, int]]:
        """Return (requests, tokens) of the quota period, by number: failed requests count, earlier days do not."""
        total: dict[int, tuple[int, int]] = {s.number: (0, 0) for s in self.world.of("known", "latecomer")}
        for kind, used in self.entries():
            if kind.day >= CHANGE_DAY:
                requests, tokens = total[kind.subscription]
                total[kind.subscription] = (requests + used.requests, tokens + used.tokens)
        return total

    def accounts(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return (balance, owed) of the customers who prepay, in credits: what credits do not cover is owed."""
        amounts, found = self.amounts(), {}
        for s in self.prepaid():
            used = _EXACT.multiply(amounts.get(s.number, Decimal(0)), Decimal(CREDITS_PER_UNIT))
            left = _EXACT.subtract(s.customer.credits or Decimal(0), used)
            found[str(s.customer.id)] = (max(left, Decimal(0)), max(-left, Decimal(0)))
        return found

    def invoiced(self) -> dict[str, Decimal]:
        """Return what the invoices of each customer must come to, before rounding; customers without usage have none."""
        used = {kind.subscription for kind in self.usage}
        amounts, by_number = self.amounts(), self.world.subscriptions
        return {str(by_number[n].customer.id): amounts[n] for n in used if by_number[n].customer.credits is None}

    def suspended(self) -> dict[str, tuple[str, ...]]:
        """Return why subscriptions are suspended in the end, by id."""
        counters, accounts, found = self.counters(), self.accounts(), {}
        for s in self.world.of("known", "latecomer"):
            reasons = []
            if s.customer.credits is not None and accounts[str(s.customer.id)][0] == 0:
                reasons.append("credits_exhausted")
            if s.quota is not None and counters[s.number][0] >= s.quota:
                reasons.append("quota_requests")
            if reasons:
                found[str(s.id)] = tuple(reasons)
        return found

    def prepaid(self) -> list[Subscription]:
        """Return the subscriptions whose customers prepay."""
        return [s for s in self.world.of("known") if _prepays(s.customer)]


def _prepays(customer: Customer) -> bool:
    return customer.credits is not None


def price_of(kind: Kind, used: Usage) -> Decimal:
    """Return what usage of a kind is worth, exactly. Failed requests and usage on the customer's own key cost nothing."""
    if not kind.ok or kind.byok:
        return Decimal(0)
    item = ITEMS[kind.item]
    rate = item.later if item.later and kind.day >= CHANGE_DAY else item.rate
    quantities = (
        (rate.input * _THOUSANDTH, used.request_tokens - used.cached_tokens),
        (rate.cached * _THOUSANDTH, used.cached_tokens),
        (rate.output * _THOUSANDTH, used.response_tokens),
        (rate.request, used.requests),
    )
    total = Decimal(0)
    for price, quantity in quantities:
        total = _EXACT.add(total, _EXACT.multiply(price, Decimal(quantity)))
    return _EXACT.multiply(total, POWER_LEVELS[kind.power][1])
