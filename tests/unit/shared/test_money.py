"""Laws of money: rounded once, halves away from zero, and shares that add up to the whole."""

from __future__ import annotations

from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import allocate, exact, minor_unit, round_money

CURRENCIES = ("EUR", "JPY", "KWD", "CLF")
amounts = st.decimals(min_value=-(10**12), max_value=10**12, places=9)
currencies = st.sampled_from(CURRENCIES)


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.005", "EUR", "0.01"),
        ("0.0049999999", "EUR", "0.00"),
        ("-0.005", "EUR", "-0.01"),
        ("2.675", "EUR", "2.68"),
        ("1", "EUR", "1.00"),
        ("0.5", "JPY", "1"),
        ("1.0005", "KWD", "1.001"),
        ("0.00005", "CLF", "0.0001"),
    ],
)
def test_halves_go_away_from_zero(amount: str, currency: str, rounded: str) -> None:
    assert str(round_money(Decimal(amount), currency)) == rounded


@given(amounts, currencies)
def test_rounding_moves_an_amount_by_half_a_unit_at_most_and_only_once(amount: Decimal, currency: str) -> None:
    rounded = round_money(amount, currency)

    assert abs(rounded - amount) <= minor_unit(currency) / 2
    assert rounded % minor_unit(currency) == 0
    assert round_money(rounded, currency) == rounded
    assert round_money(-amount, currency) == -rounded


@given(st.lists(amounts, max_size=30), currencies)
def test_shares_sum_to_the_rounded_sum_and_each_is_within_a_unit(parts: list[Decimal], currency: str) -> None:
    shares = allocate(parts, currency)

    assert sum(shares, Decimal(0)) == round_money(sum(parts, Decimal(0)), currency)
    assert all(abs(share - part) < minor_unit(currency) for share, part in zip(shares, parts, strict=True))
    assert all(share % minor_unit(currency) == 0 for share in shares)


def test_the_larger_remainder_gets_the_odd_cent_and_a_tie_goes_to_the_earlier() -> None:
    third = Decimal("0.333")
    assert allocate([third, third, third + Decimal("0.001")], "EUR") == [
        Decimal("0.33"),
        Decimal("0.33"),
        Decimal("0.34"),
    ]
    assert allocate([Decimal("0.005"), Decimal("0.005")], "EUR") == [Decimal("0.01"), Decimal("0.00")]


def test_nothing_is_allocated_to_nobody() -> None:
    assert allocate([], "EUR") == []


def test_exact_arithmetic_raises_rather_than_rounds() -> None:
    with exact():
        assert Decimal("0.000000000001") * Decimal(2**53) == Decimal("9007.199254740992")
        with pytest.raises(Inexact):
            Decimal(1) / Decimal(3)
