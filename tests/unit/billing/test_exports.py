"""Exports: FOCUS rows sum to the invoice, and every entry of the journal balances."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.exports.focus import CATEGORIES, COLUMNS, MANDATORY, focus_rows
from services.billing.exports.journal import (
    Burned,
    Money,
    Posting,
    burned_postings,
    invoice_postings,
    money_postings,
    unbalanced,
)
from services.billing.invoices.document import DocumentLine
from tests.unit.billing.document_facts import LINES, OCTOBER, credit_note, invoice, line

PUBLISHERS = {"gpt-4o": "openai"}
cents = st.integers(1, 10**9).map(lambda n: Decimal(n) / 100)


def test_every_mandatory_column_of_focus_is_there() -> None:
    assert len(MANDATORY) == 21
    assert set(MANDATORY) <= set(COLUMNS)
    assert list(COLUMNS) == sorted(COLUMNS)


def test_billed_costs_sum_to_the_invoice_tax_included() -> None:
    shown = invoice()
    rows = list(focus_rows(shown, OCTOBER, service="LLM gateway", publishers=PUBLISHERS))
    assert sum(row.BilledCost for row in rows) == shown.total
    assert {row.InvoiceId for row in rows} == {shown.number}
    assert [row.ChargeCategory for row in rows] == ["Purchase", "Usage", "Usage", "Credit", "Tax"]
    assert [row.ChargeClass for row in rows] == [None, None, "Correction", None, None]
    assert [row.PublisherName for row in rows][1:3] == ["openai", "openai"]


def test_billed_costs_of_a_credit_note_take_its_total_back() -> None:
    note = credit_note()
    rows = list(focus_rows(note, OCTOBER, service="LLM gateway", publishers=PUBLISHERS))
    assert sum(row.BilledCost for row in rows) == -note.total
    assert {row.ChargeClass for row in rows} == {"Correction"}


def test_columns_without_a_meaning_for_a_charge_are_null() -> None:
    """FOCUS: no quantities and prices on taxes and credits, and no unit without a quantity."""
    for row in focus_rows(invoice(), OCTOBER, service="LLM gateway", publishers=PUBLISHERS):
        priced = row.ChargeCategory in ("Usage", "Purchase")
        assert (
            (row.PricingQuantity is not None)
            == (row.PricingUnit is not None)
            == (row.ListUnitPrice is not None)
            == priced
        )
        assert (row.ConsumedQuantity is not None) == (row.ConsumedUnit is not None) == (row.ChargeCategory == "Usage")
        if priced and row.PricingQuantity is not None and row.ListUnitPrice is not None:
            assert row.PricingQuantity * row.ListUnitPrice == row.ListCost


def test_every_kind_of_line_has_a_category() -> None:
    kinds = {
        "usage",
        "fee",
        "overage",
        "minimum",
        "discount",
        "credit",
        "adjustment",
        "proration",
        "package",
        "carried",
    }
    assert set(CATEGORIES) == kinds


kinds = st.sampled_from(sorted(CATEGORIES))
documents = st.lists(st.tuples(kinds, st.integers(-5000, 5000)), min_size=1, max_size=8).map(
    lambda facts: tuple(
        line(n, str(quantity), "0.01", kind=kind, unit="request") for n, (kind, quantity) in enumerate(facts, start=1)
    )
)


@given(documents)
def test_law_the_entry_of_any_invoice_balances(lines: tuple[DocumentLine, ...]) -> None:
    shown = invoice(lines=lines)
    postings = list(invoice_postings(shown))
    assert unbalanced(postings) == []
    assert sum((p.amount for p in postings if p.account == "vat"), Decimal(0)) == -shown.tax


def test_an_invoice_is_owed_and_earned() -> None:
    sums = {p.account: p.amount for p in invoice_postings(invoice())}
    assert sums == {
        "receivables": Decimal("136.28"), "vat": Decimal("-21.76"), "fee_revenue": Decimal("-99.00"),
        "usage_revenue": Decimal("-30.85"), "discounts": Decimal("15.33"),
    }  # fmt: skip


def test_a_credit_note_is_the_reverse() -> None:
    note = credit_note()
    sums = {p.account: p.amount for p in invoice_postings(note)}
    assert (sums["receivables"], sums["usage_revenue"], sums["vat"]) == (-note.total, note.subtotal, note.tax)


def test_what_is_carried_over_stays_owed_to_the_customer() -> None:
    carried = replace(LINES[1], kind="carried", amount=Decimal(10), exact_amount=Decimal(10), tax_rate=Decimal(0))
    back = replace(LINES[2], amount=Decimal(-10), exact_amount=Decimal(-10), tax_rate=Decimal(0))
    sums = {p.account: p.amount for p in invoice_postings(invoice(lines=(carried, back)))}
    assert sums == {"receivables": Decimal(-10), "usage_revenue": Decimal(10)}


def test_a_draft_is_not_booked() -> None:
    assert list(invoice_postings(invoice(number=None, issue_date=None))) == []


@given(cents, st.integers(0, 100), st.booleans())
def test_law_money_balances_and_lands_on_the_bank(amount: Decimal, share: int, back: bool) -> None:
    signed = -amount if back else amount
    allocated = (signed * share / 100).quantize(Decimal("0.01"))
    money = Money(UUID(int=1), date(2026, 11, 1), signed, allocated, "EUR", UUID(int=7), "transfer")
    postings = list(money_postings(money))
    assert unbalanced(postings) == []
    assert [p.amount for p in postings if p.account == "bank"] == [signed]


@given(cents, st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_law_what_was_bought_ahead_becomes_revenue_to_the_last_cent(price: Decimal, days: list[int]) -> None:
    """However a grant is used up, its days sum to its price."""
    bought, before, postings = Decimal(sum(days)), Decimal(0), list[Posting]()
    for number, used in enumerate(days):
        day = date(2026, 1, 1) + timedelta(days=number)
        burned = Burned(UUID(int=1), day, before, before + used, bought, price, "EUR", UUID(int=7))
        postings += burned_postings(burned)
        before += used
    assert unbalanced(postings) == []
    assert sum((p.amount for p in postings if p.account == "prepayments"), Decimal(0)) == price


def test_an_entry_that_does_not_balance_is_named() -> None:
    one = Posting(date(2026, 11, 1), "INV-1", "bank", Decimal(1), "EUR", UUID(int=7), "")
    assert unbalanced([one, replace(one, document="INV-2"), replace(one, document="INV-2", amount=Decimal(-1))]) == [
        "INV-1"
    ]


@pytest.mark.parametrize("kind", sorted(CATEGORIES))
def test_each_kind_of_line_can_be_exported(kind: str) -> None:
    shown = invoice(lines=(line(1, "3", "0.5", kind=kind, unit="request"),))
    assert sum(row.BilledCost for row in focus_rows(shown, OCTOBER, service="s", publishers={})) == shown.total
