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
from services.billing.credits.burning import AppliedGrant, burn_down
from services.billing.credits.credits import Account, Claim, Pending, Settlement, notices, rounds, to_credits
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


@given(
    st.lists(st.decimals(0, 50, places=3, allow_nan=False).filter(bool), max_size=6),
    st.integers(-100, 20_000).map(lambda cents: Decimal(cents) / 100),
)
def test_grants_pay_in_order_whole_minor_units_and_never_more_than_is_asked(
    left: list[Decimal], asked: Decimal
) -> None:
    grants = [AppliedGrant(UUID(int=n), amount, f"grant {n}") for n, amount in enumerate(left)]
    used = burn_down(grants, asked, "USD")
    payable = [amount // Decimal("0.01") * Decimal("0.01") for amount in left]
    assert sum(grant.amount for grant in used) == min(max(asked, Decimal(0)), sum(payable))
    assert all(grant.amount > 0 and grant.amount % Decimal("0.01") == 0 for grant in used)
    emptied = [grant for grant in used[:-1] if grant.amount != payable[grant.grant_id.int]]
    assert emptied == [], "a grant is used up before the next one is"
    assert [grant.grant_id for grant in used] == sorted(grant.grant_id for grant in used)


@given(st.lists(st.integers(0, 3), max_size=10))
def test_rounds_name_each_user_once_and_keep_their_order(users: list[int]) -> None:
    claims = [Claim(UUID(int=n), UUID(int=user), "USD", Decimal(1), 1, AT, AT) for n, user in enumerate(users)]
    made = rounds(claims)
    assert sorted((c for together in made for c in together), key=lambda c: c.id) == claims
    assert all(len({c.user_id for c in together}) == len(together) for together in made)
    for user in set(users):
        assert [c for together in made for c in together if c.user_id.int == user] == [
            c for c in claims if c.user_id.int == user
        ]


def test_usage_in_a_currency_without_a_rate_is_not_pending() -> None:
    watch = Pending({"EUR": Decimal(10)}, urgent_share=Decimal("0.8"))
    assert watch.add([row("500", balance=100)]) == []


def test_more_is_bought_below_the_threshold_only() -> None:
    wants = [Account(Decimal(n), Decimal(0), topup_threshold=Decimal(5)).wants_topup for n in (4, 5, 6)]
    assert wants == [True, False, False]
    assert not Account(Decimal(0), Decimal(3)).wants_topup
