"""Law: of a line is given back what was asked for or what its usage lost, whichever is more, in whatever order the two come."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.billing.invoices.credited_once import Standing, spread

amounts = st.decimals(min_value=0, max_value=100, places=4)
happenings = st.lists(st.tuples(st.sampled_from(["note", "usage"]), amounts), max_size=12)


@given(happenings)
def test_the_larger_of_both_is_given_in_any_order(found: list[tuple[str, Decimal]]) -> None:
    state, gifts = Standing(), Decimal(0)
    for kind, amount in found:
        if kind == "note":
            gift = state.left_to_give(amount)
            state = replace(state, noted=state.noted + gift, reduced=state.reduced + amount - gift)
        else:
            off = state.set_off_of(amount)
            gift = amount - off
            state = replace(state, taken=state.taken + amount, set_off=state.set_off + off)
        assert 0 <= gift <= amount
        gifts += gift
        assert state.set_off <= state.noted
    asked, lost = (sum((a for k, a in found if k == kind), Decimal(0)) for kind in ("note", "usage"))
    assert gifts == state.noted + state.given_by_usage == max(asked, lost)


@given(st.lists(amounts, max_size=5), amounts)
def test_what_is_spread_is_borne_by_the_first_that_can(over: list[Decimal], amount: Decimal) -> None:
    parts = spread(amount, over)
    assert sum(parts) == min(amount, sum(over, Decimal(0)))
    assert all(0 <= part <= most for part, most in zip(parts, over, strict=True))


def test_what_usage_lost_once_more_after_its_invoice_was_made_anew_is_counted_once() -> None:
    state = Standing(noted=Decimal(4), reduced=Decimal(6))
    assert state.set_off_of(Decimal(6)) == 0
    assert state.set_off_of(Decimal(8)) == 2
