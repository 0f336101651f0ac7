"""What credits should do, as simply as it can be said: a list of grants, walked in order; and what the database must always say."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from shared.postgres import Pool

PRIORITIES = {"allowance": 10, "promotional": 20, "bonus": 30}
ZERO = Decimal(0)


LAWS = """
SELECT
    (SELECT count(*) FROM credit_transactions t WHERE t.user_id = $1
       AND t.amount <> (SELECT coalesce(sum(p.amount), 0) FROM credit_grant_postings p WHERE p.transaction_id = t.id)) AS entries_not_spread,
    (SELECT count(*) FROM credit_grants g WHERE g.user_id = $1
       AND g.remaining <> (SELECT sum(p.amount) FROM credit_grant_postings p WHERE p.grant_id = g.id)) AS grants_not_posted,
    (SELECT count(*) FROM (SELECT balance_before, lag(balance_after, 1, 0::numeric) OVER (ORDER BY sequence) AS previous, sequence,
                                  row_number() OVER (ORDER BY sequence) AS place FROM credit_transactions WHERE user_id = $1) c
       WHERE balance_before <> previous OR sequence <> place) AS chain_broken,
    (SELECT count(*) FROM credit_transactions WHERE user_id = $1 AND (balance_after < 0 OR owed_after < 0)) AS negative,
    (SELECT coalesce(sum(amount), 0) FROM credit_transactions WHERE user_id = $1) AS ledger,
    (SELECT coalesce(sum(remaining), 0) FROM credit_grants WHERE user_id = $1) AS remaining,
    (SELECT coalesce(sum(owed_change - amount), 0) FROM credit_transactions WHERE user_id = $1 AND request ->> 'call' = 'settle') AS settled,
    coalesce((SELECT balance FROM user_credits WHERE user_id = $1), 0) AS balance,
    coalesce((SELECT owed FROM user_credits WHERE user_id = $1), 0) AS owed
"""


async def obey_the_laws(pool: Pool, user: UUID, *, settled: Decimal | None = None) -> Any:
    """Σ ledger = Σ grants = balance, every entry is spread over grants, the chain holds, nothing is negative."""
    row = await pool.fetchrow(LAWS, user)
    assert row is not None
    broken = {name: row[name] for name in ("entries_not_spread", "grants_not_posted", "chain_broken", "negative")}
    assert not any(broken.values()), broken
    assert row["ledger"] == row["remaining"] == row["balance"]
    assert not (row["balance"] > 0 and row["owed"] > 0)
    if settled is not None:
        assert row["settled"] == settled, "debits = Σ rated − owed"
    return row


@dataclass(slots=True)
class Grant:
    """What one ledger entry gave, and where it is now. `days` is how long it still lasts; None: for ever."""

    sequence: int
    amount: Decimal
    priority: int
    days: int | None
    remaining: Decimal
    used: Decimal = ZERO
    withdrawn: Decimal = ZERO
    last_used: int = 0

    @property
    def order(self) -> tuple[int, bool, int, int]:
        """The place in the burn-down."""
        return self.priority, self.days is None, self.days or 0, self.sequence

    @property
    def ended(self) -> bool:
        """Whether it pays nothing any more."""
        return self.days is not None and self.days <= 0


@dataclass(slots=True)
class Credits:
    """A user's credits."""

    grants: list[Grant] = field(default_factory=list)
    owed: Decimal = ZERO
    sequence: int = 0

    @property
    def balance(self) -> Decimal:
        """What is left."""
        return sum((g.remaining for g in self.grants), ZERO)

    @property
    def facts(self) -> list[tuple[int, Decimal, Decimal, Decimal]]:
        """What the grants say, to be compared."""
        return [(g.sequence, g.remaining, g.used, g.withdrawn) for g in sorted(self.grants, key=lambda g: g.sequence)]

    def add(self, kind: str, amount: Decimal, priority: int | None = None, days: int | None = None) -> None:
        """Give; what is owed is paid first."""
        self.expire()
        self.sequence += 1
        rank = PRIORITIES.get(kind, 100) if priority is None else priority
        self.grants.append(Grant(self.sequence, amount, rank, days, amount))
        if self.owed:
            paid = min(self.owed, amount)
            self.owed -= paid
            self.sequence += 1
            self._burn(paid, used=True)

    def settle(self, amount: Decimal) -> None:
        """Usage that has happened; negative: was voided."""
        self.expire()
        if amount > 0:
            self.sequence += 1
            paid = min(amount, self.balance)
            self.owed += amount - paid
            self._burn(paid, used=True)
        elif amount < 0:
            self.sequence += 1
            forgiven = min(self.owed, -amount)
            self.owed -= forgiven
            self._restore(-amount - forgiven)

    def debit(self, amount: Decimal) -> bool:
        """All or nothing; False: nothing."""
        self.expire()
        if amount > self.balance:
            return False
        self.sequence += 1
        self._burn(amount, used=True)
        return True

    def take_back(self, amount: Decimal) -> bool:
        """Adjust downwards, all or nothing; False: nothing."""
        self.expire()
        if amount > self.balance:
            return False
        self.sequence += 1
        self._burn(amount, used=False)
        return True

    def wait(self, days: int) -> None:
        """Let time pass."""
        for grant in self.grants:
            grant.days = None if grant.days is None else grant.days - days

    def expire(self) -> None:
        """Drop what has ended: one entry for each grant."""
        for grant in self.grants:
            if grant.ended and grant.remaining:
                self.sequence += 1
                grant.withdrawn += grant.remaining
                grant.remaining = ZERO

    def _burn(self, amount: Decimal, *, used: bool) -> None:
        for grant in sorted(self.grants, key=lambda g: g.order):
            taken = min(grant.remaining, amount)
            if taken:
                grant.remaining -= taken
                amount -= taken
                if used:
                    grant.used += taken
                    grant.last_used = self.sequence
                else:
                    grant.withdrawn += taken
        assert amount == 0

    def _restore(self, amount: Decimal) -> None:
        living = [g for g in self.grants if g.used and not g.ended]
        for grant in sorted(living, key=lambda g: (g.last_used, g.order), reverse=True):
            back = min(grant.used, amount)
            grant.remaining += back
            grant.used -= back
            amount -= back
        if amount:
            self.grants.append(Grant(self.sequence, amount, 100, None, amount))
