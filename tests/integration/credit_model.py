"""What credits should do, as simply as it can be said: a list of grants, walked in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

PRIORITIES = {"allowance": 10, "promotional": 20, "bonus": 30}
ZERO = Decimal(0)


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
