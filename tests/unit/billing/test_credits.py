"""Prepaid credits: what is urgent, what is told, and that conversion is exact."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.amounts import amount_text
from services.billing.credits.credits import Account, Claim, Pending, Settlement, notices, to_credits
from services.billing.rating.rating import Price, Rated, RatedRow
from services.billing.rating.usage import Payer, Quantities, UsageKey

AT = datetime(2026, 10, 14, 12, tzinfo=UTC)
USER = UUID(int=1)
KEY = UsageKey(UUID(int=2), AT, "gpt-4o", "", "", "balanced", False, 2)
PRICE = Price(UUID(int=3), "model", "gpt-4o", "USD", AT, None)


def row(amount: str | None, *, balance: int, mode: str = "prepaid", user: UUID = USER) -> RatedRow:
    payer = Payer(user, mode, "USD", Decimal(balance))  # type: ignore[arg-type]
    rated = None if amount is None else Rated(PRICE, Decimal(1), Decimal(amount), None)
    return RatedRow(KEY, Quantities(requests=1), payer, rated)


def pending() -> Pending:
    return Pending({"USD": Decimal(10)}, urgent_share=Decimal("0.8"))


def test_usage_is_urgent_once_it_nears_what_is_left() -> None:
    watch = pending()
    assert watch.add([row("7.9", balance=100)]) == []
    assert watch.add([row("0.1", balance=100)]) == [USER]


def test_what_was_settled_is_forgotten() -> None:
    watch = pending()
    watch.add([row("7.9", balance=100), row("7.9", balance=100, user=UUID(int=9))])
    watch.forget([USER])
    assert watch.add([row("0.2", balance=100)]) == []
    assert watch.add([row("0.2", balance=100, user=UUID(int=9))]) == [UUID(int=9)]
    watch.forget()
    assert watch.add([row("7.9", balance=100)]) == []


def test_who_has_nothing_left_is_not_urgent_any_more() -> None:
    assert pending().add([row("5", balance=0)]) == []


def test_postpaid_and_held_usage_is_not_pending() -> None:
    assert pending().add([row("500", balance=1, mode="postpaid"), row(None, balance=1)]) == []


def settlement(credits_used: int, before: Account) -> Settlement:
    debited = min(before.balance, Decimal(credits_used))
    claim = Claim(UUID(int=5), USER, "USD", Decimal(credits_used) / 10, 1, AT, AT)
    owed = credits_used - debited
    after = Account(before.balance - debited, before.owed + owed, before.low_balance_threshold)
    return Settlement(claim, Decimal(credits_used), debited, owed, UUID(int=6), after)


@pytest.mark.parametrize(
    ("balance", "owed", "low", "used", "told"),
    [
        (100, 0, 50, 40, []),
        (100, 0, 50, 51, ["low_balance"]),
        (49, 0, 50, 1, []),
        (100, 0, None, 99, []),
        (100, 0, 50, 100, ["credits_exhausted"]),
        (100, 0, 50, 120, ["credits_exhausted"]),
        (0, 0, 50, 5, ["credits_exhausted"]),
        (0, 5, 50, 5, []),
        (0, 0, 50, 0, []),
    ],
)
def test_only_crossings_are_told(balance: int, owed: int, low: int | None, used: int, told: list[str]) -> None:
    before = Account(Decimal(balance), Decimal(owed), None if low is None else Decimal(low))
    found = notices(before, settlement(used, before))
    assert [notice.kind for notice in found] == told
    assert all(notice.message for notice in found)


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(0, 200), st.integers(0, 100))
def test_each_crossing_is_told_exactly_once_however_usage_is_cut(uses: list[int], balance: int, low: int) -> None:
    account, told = Account(Decimal(balance), Decimal(0), Decimal(low)), []
    for used in uses:
        made = settlement(used, account)
        told += [notice.kind for notice in notices(account, made)]
        account = made.account
    assert told.count("low_balance") <= 1
    if balance > 0 and sum(uses) > balance:
        assert "credits_exhausted" in told


@given(
    st.decimals(0, 10**9, places=12, allow_nan=False), st.decimals(min_value=Decimal("0.001"), max_value=1000, places=3)
)
def test_conversion_to_credits_is_exact(amount: Decimal, per_unit: Decimal) -> None:
    assert Fraction(to_credits(amount, per_unit)) == Fraction(amount) * Fraction(per_unit)


def test_amounts_are_spelled_with_all_digits_and_no_exponent() -> None:
    assert [amount_text(Decimal(text)) for text in ("10.0000", "1E+3", "0.000000001", "0")] == [
        "10",
        "1000",
        "0.000000001",
        "0",
    ]
