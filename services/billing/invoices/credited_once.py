"""What credit notes and corrections of usage give back of the same line (pure): the larger of the two, in whatever order they come.

A note over a line of usage is taken to be about what is corrected of that usage, now or later. So of a line is given back what its notes
asked for or what its usage lost, whichever is more, and never their sum. A note of goodwill is beside this. A charge that a plan computes
of usage is a line like it. A fee is not: what a change of plan credits of it has nothing to do with what a note gave, and both are given, up
to the fee.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from shared.money import exact


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a line of usage has been given back, in exact amounts: `noted` by credit notes, which gave `reduced` less than was asked of
    them, because so much had been given back; `taken` is what its usage has lost since, of which `set_off` was not given back. `charged` is
    not None of a fee: what both together may give."""

    noted: Decimal = Decimal(0)
    reduced: Decimal = Decimal(0)
    taken: Decimal = Decimal(0)
    set_off: Decimal = Decimal(0)
    charged: Decimal | None = None

    @property
    def given_by_usage(self) -> Decimal:
        """What corrections of usage have given back."""
        with exact():
            return self.taken - self.set_off

    def set_off_of(self, taken: Decimal) -> Decimal:
        """Return what of `taken`, which its usage loses now, notes have given back already."""
        with exact():
            after = max(self.noted + self.reduced, self.taken + taken)
            return min(max(self.noted + self.given_by_usage + taken - after, Decimal(0)), taken)

    @property
    def set_off_in_all(self) -> Decimal:
        """What of `taken` has to be set off, from the first note on."""
        with exact():
            if self.charged is not None:
                return max(self.noted + self.taken - self.charged, Decimal(0))
            return max(min(self.taken - self.reduced, self.noted), Decimal(0))

    def left_to_give(self, wanted: Decimal) -> Decimal:
        """Return what a note over `wanted` has to give: what corrections of its usage have not given back already."""
        with exact():
            if self.charged is not None:
                return min(max(self.charged - self.noted - self.given_by_usage, Decimal(0)), wanted)
            after = max(self.noted + self.reduced + wanted, self.taken)
            return min(max(after - self.noted - self.given_by_usage, Decimal(0)), wanted)


def spread(amount: Decimal, over: Sequence[Decimal]) -> list[Decimal]:
    """Return what each of `over` bears of `amount`: the first as much as it can."""
    parts = []
    with exact():
        for most in over:
            parts.append(min(max(most, Decimal(0)), amount))
            amount -= parts[-1]
    return parts
