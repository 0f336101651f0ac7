"""Laws of charges that belong together: never more is given back of a family than was charged, in any order."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.billing.invoices.charge_families import Charged, Family, families

SUB = UUID(int=7)
FROM, TO = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
cents = st.integers(0, 5_000).map(lambda n: Decimal(n) / 100)


def charge(
    kind: str, amount: Decimal, *, part: str = "", start: datetime = FROM, noted: Decimal = Decimal(0), n: int = 1
) -> Charged:
    return Charged(UUID(int=n), f"{kind}:{SUB}:{start:%Y-%m-%dT%H:%M:%SZ}{part}", SUB, start, TO, amount, noted)


@given(
    st.lists(st.tuples(st.sampled_from(["level", "note"]), cents), max_size=10),
    st.sampled_from(["overage.x", "included"]),
)
def test_a_charge_that_follows_usage_never_gives_back_more_than_it_charged(
    found: list[tuple[str, Decimal]], kind: str
) -> None:
    """`level`: what the charge comes to now; the difference is billed, with what has to be set off. `note`: asks for so much of it."""
    family = Family()
    sign = -1 if kind == "included" else 1
    paid = level = charged = Decimal(0)
    for what, amount in found:
        if what == "level" and amount != level:
            family.charges.append(charge(kind, sign * (amount - level), part=f"#{len(family.charges) + 1}"))
            standing = family.standing()
            off = standing.set_off_in_all - standing.set_off
            family.set_off += sign * off
            paid += amount - level + off
            charged += max(amount - level, Decimal(0))
            level = amount
        elif what == "note" and family.charges:
            gift = family.standing().left_to_give(min(amount, paid))
            first = family.charges[0]
            family.charges[0] = first._replace(noted=first.noted + sign * gift)
            family.reduced += sign * (min(amount, paid) - gift)
            paid -= gift
        assert 0 <= paid <= charged


@given(cents, cents, cents)
def test_of_a_fee_notes_and_credits_give_back_the_fee_at_most(fee: Decimal, credit: Decimal, note: Decimal) -> None:
    credit, note = min(credit, fee), min(note, fee)
    (family,) = families(
        [
            charge("fee", fee, noted=note),
            charge("proration", -credit, part=":credit", start=datetime(2026, 10, 9, tzinfo=UTC)),
        ]
    ).values()
    standing = family.standing()
    assert fee - note - credit + standing.set_off_in_all == max(fee - note - credit, Decimal(0))
    family.set_off = standing.set_off_in_all
    assert family.standing().left_to_give(fee) == max(fee - note - credit, Decimal(0))


def test_a_credit_belongs_to_the_fee_whose_time_it_ends_and_a_coupon_to_its_own() -> None:
    second, third = datetime(2026, 10, 9, tzinfo=UTC), datetime(2026, 10, 20, tzinfo=UTC)
    ten = Decimal(10)
    found = families(
        [
            charge("fee", ten), charge("discount:TENTH:fee", -ten),
            charge("proration", -ten, part=":credit", start=second), charge("proration", ten, part=":charge", start=second),
            charge("discount:TENTH:proration", ten, part=":credit", start=second),
            charge("proration", -ten, part=":credit", start=third),
        ]
    )  # fmt: skip
    assert [(f.charges[0].kind, len(f.charges), f.sign, f.is_flat) for f in found.values()] == [
        ("fee", 2, 1, True), ("discount:TENTH:fee", 2, -1, True), ("proration", 2, 1, True),
    ]  # fmt: skip
