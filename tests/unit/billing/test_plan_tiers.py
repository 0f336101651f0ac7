"""Tiers as the textbook has them, and their laws."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.plans.tiers import Tier, graduated, package, packages, volume

# Stripe, "Tiered pricing": 1 to 5 at 7, 6 to 10 at 6.50, 11 and more at 6.
TEXTBOOK = [
    Tier(Decimal(5), Decimal(7)),
    Tier(Decimal(10), Decimal("6.50")),
    Tier(None, Decimal(6)),
]

amounts = st.decimals(min_value=0, max_value=100, places=6)
quantities = st.integers(0, 10**9).map(Decimal)


@st.composite
def tier_lists(draw: st.DrawFn, *, flat: bool = False) -> list[Tier]:
    edges = sorted(draw(st.sets(st.integers(1, 10**6), max_size=4)))
    bounds = [*map(Decimal, edges), None]
    return [Tier(bound, draw(amounts), draw(amounts) if flat else Decimal(0)) for bound in bounds]


@pytest.mark.parametrize(
    ("quantity", "by_volume", "by_tier"),
    [("1", "7", "7"), ("5", "35", "35"), ("6", "39", "41.5"), ("20", "120", "127.5"), ("25", "150", "157.5"), ("0", "0", "0")],
)  # fmt: skip
def test_the_textbook_example(quantity: str, by_volume: str, by_tier: str) -> None:
    assert volume(Decimal(quantity), TEXTBOOK) == Decimal(by_volume)
    assert graduated(Decimal(quantity), TEXTBOOK) == Decimal(by_tier)


@pytest.mark.parametrize(("quantity", "expected"), [("0", 0), ("1", 1), ("100", 1), ("101", 2), ("250", 3), ("0.5", 1)])
def test_a_package_that_was_begun_is_paid_whole(quantity: str, expected: int) -> None:
    """Lago, "Package": 5 for 100 units; 1 to 100 cost 5, 101 to 200 cost 10."""
    assert packages(Decimal(quantity), Decimal(100)) == expected
    assert package(Decimal(quantity), Decimal(100), Decimal(5)) == 5 * expected


def test_entering_a_tier_can_cost_something() -> None:
    tiers = [Tier(Decimal(10), Decimal(1), flat=Decimal(5)), Tier(None, Decimal(0), flat=Decimal(3))]
    assert graduated(Decimal(10), tiers) == 15
    assert graduated(Decimal(11), tiers) == 18
    assert volume(Decimal(11), tiers) == 3


@given(quantities, quantities, tier_lists(flat=True))
def test_more_never_costs_less_by_graduated_tiers(one: Decimal, more: Decimal, tiers: list[Tier]) -> None:
    assert graduated(one, tiers) <= graduated(one + more, tiers)


@given(tier_lists(), st.data())
def test_graduated_prices_are_continuous(tiers: list[Tier], data: st.DataObject) -> None:
    """Without flat parts a step of one unit costs at most the highest unit price, also across an edge."""
    at = Decimal(data.draw(st.integers(0, 10**6 + 10)))
    step = Decimal(1).scaleb(-data.draw(st.integers(0, 6)))
    rise = graduated(at + step, tiers) - graduated(at, tiers)
    assert 0 <= rise <= step * max(tier.unit_price for tier in tiers)


@given(quantities, amounts)
def test_with_one_tier_both_are_the_product(quantity: Decimal, price: Decimal) -> None:
    assert graduated(quantity, [Tier(None, price)]) == volume(quantity, [Tier(None, price)]) == quantity * price


@given(quantities, st.integers(1, 10**6).map(Decimal))
def test_packages_hold_the_quantity_and_not_one_more(quantity: Decimal, size: Decimal) -> None:
    assert quantity <= packages(quantity, size) * size < quantity + size
