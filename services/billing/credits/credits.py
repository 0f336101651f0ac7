"""Prepaid credits (pure): what usage costs in credits, when it cannot wait to be settled, what a customer is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.rating.rating import RatedRow
from shared.money import exact


@dataclass(frozen=True, slots=True)
class Account:
    """A user's credits: what is left, what is owed, below which balance to be alerted, and to buy more (None: never)."""

    balance: Decimal
    owed: Decimal
    low_balance_threshold: Decimal | None = None
    topup_threshold: Decimal | None = None

    @property
    def wants_topup(self) -> bool:
        """Whether a package is to be bought by itself."""
        return self.topup_threshold is not None and self.balance < self.topup_threshold


class Due(NamedTuple):
    """Whose usage in which currency waits to be settled, at which rate; None: its currency has no rate at that hour."""

    user_id: UUID
    currency: str
    credits_per_unit: Decimal | None


@dataclass(frozen=True, slots=True)
class Claim:
    """Usage that a settlement pays: `rated_amount` in `currency`, of rated rows in `[window_start, window_end)`.

    `credits_per_unit` is the rate of the currency in the hours of that usage. Negative where more was voided than used.
    """

    id: UUID
    user_id: UUID
    currency: str
    rated_amount: Decimal
    events: int
    window_start: datetime
    window_end: datetime
    credits_per_unit: Decimal = Decimal(1)

    @property
    def credits(self) -> Decimal:
        """What it costs in credits, exactly."""
        return to_credits(self.rated_amount, self.credits_per_unit)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claim: `credits` = `debited` from the balance + `owed` because the balance did not cover it.

    All three are negative where usage is given back.
    """

    claim: Claim
    credits: Decimal
    debited: Decimal
    owed: Decimal
    transaction_id: UUID | None
    account: Account


@dataclass(frozen=True, slots=True)
class Notice:
    """What a user is told: the balance fell below the threshold, or is used up."""

    kind: Literal["low_balance", "credits_exhausted"]
    settlement: Settlement

    @property
    def message(self) -> str:
        """The sentence that the user reads."""
        account = self.settlement.account
        if self.kind == "low_balance":
            threshold = amount_text(account.low_balance_threshold or Decimal(0))
            return (
                f"{amount_text(account.balance)} credits are left, less than the {threshold} you wanted to be told at."
            )
        return f"Your credits are used up, {amount_text(account.owed)} are owed. Prepaid subscriptions are suspended until you add credits."


def to_credits(amount: Decimal, credits_per_unit: Decimal) -> Decimal:
    """Return what an amount of money is in credits, exactly."""
    with exact():
        return amount * credits_per_unit


def notices(before: Account, settlement: Settlement) -> list[Notice]:
    """Return what a settlement has to be told about: crossings only, so that nobody is told twice the same."""
    after, low = settlement.account, before.low_balance_threshold
    if after.balance == 0 and settlement.credits > 0 and (before.balance > 0 or before.owed == 0):
        return [Notice("credits_exhausted", settlement)]
    if low is not None and after.balance < low <= before.balance:
        return [Notice("low_balance", settlement)]
    return []


@dataclass(slots=True)
class Pending:
    """What this worker knows to be rated and not settled yet, by user, in credits: whose settlement must not wait.

    An estimate by the `rates` of now, in credits for a unit of each currency, which other workers' usage adds to; what is settled
    is decided by the database.
    """

    rates: Mapping[str, Decimal]
    urgent_share: Decimal
    _credits: dict[UUID, Decimal] = field(default_factory=dict)

    def add(self, rows: Iterable[RatedRow]) -> list[UUID]:
        """Add newly rated usage; return the users whose pending usage has come near what is left of their credits.

        Who has nothing left is suspended already: for them the timer is soon enough.
        """
        urgent: dict[UUID, None] = {}
        with exact():
            for row in rows:
                if row.rated is None or row.payer.billing_mode != "prepaid":
                    continue
                user_id, balance = row.payer.user_id, row.payer.balance
                rate = self.rates.get(row.rated.price.currency)
                if rate is None:
                    continue  # it waits for a rate
                pending = self._credits.get(user_id, Decimal(0)) + row.rated.amount * rate
                self._credits[user_id] = pending
                if 0 < balance * self.urgent_share <= pending:
                    urgent[user_id] = None
        return list(urgent)

    def forget(self, users: Sequence[UUID] | None = None) -> None:
        """Forget what is about to be settled: of `users`, or of all."""
        if users is None:
            self._credits.clear()
        else:
            for user_id in users:
                self._credits.pop(user_id, None)


def rounds(claims: Sequence[Claim]) -> list[list[Claim]]:
    """Return claims in rounds that name each user once: who used in several currencies, or at several rates, is in several."""
    made: list[list[Claim]] = []
    seen: dict[UUID, int] = {}
    for claim in claims:
        place = seen.get(claim.user_id, 0)
        seen[claim.user_id] = place + 1
        if place == len(made):
            made.append([])
        made[place].append(claim)
    return made
