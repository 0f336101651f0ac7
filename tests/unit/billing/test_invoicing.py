"""Laws of invoicing: lines sum to what was rated, rounded lines sum to the total, provenance is on every line."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.billing.invoices.invoicing import make_invoice
from services.billing.invoices.lines import Line, UsageGroup, charge_line, usage_lines
from services.billing.invoices.taxes import Tax
from services.billing.plans.charge import Charge
from services.billing.rating.rating import ONE_TOKEN_OF_1K
from shared.errors import BrokenInvariant
from shared.money import allocate, exact, minor_unit, round_money
from shared.period import Period

OCTOBER = Period.parse_month("2026-10")
SEPTEMBER = Period.parse_month("2026-09")
GROUP = UsageGroup(
    invoice_id=UUID(int=1), line_id=UUID(int=2), subscription_id=UUID(int=3), price_id=UUID(int=4), model_id="gpt-4o", tool_name="",
    feature_type="chat", power_level="eco", byok=False, multiplier=Decimal("0.7"), period_start=OCTOBER.start, period_end=OCTOBER.end,
    event_count=5, billed_requests=4, billed_input=1000, billed_cached_input=0, billed_output=200, billed_units=Decimal(0),
    price_per_request=Decimal("0.001"),
    input_price_per_1k=Decimal("0.0025"), cached_input_price_per_1k=Decimal("0.001"), output_price_per_1k=Decimal("0.01"),
    price_per_unit=Decimal(0), unit=None,
    amount=Decimal("0.00595"), first_event_at=OCTOBER.start, last_event_at=OCTOBER.start, checksum="77",
)  # fmt: skip


def basic(amount: str) -> Line:
    charge = Charge(
        UUID(int=3),
        "fee",
        "fee:3",
        "Basic, from 1 October 2026",
        Decimal(1),
        "fee",
        Decimal(amount),
        Decimal(amount),
        OCTOBER.start,
        OCTOBER.end,
    )
    return charge_line(charge)


def test_a_group_becomes_a_line_for_each_component_that_costs_something() -> None:
    lines = usage_lines(GROUP, OCTOBER)
    assert [(ln.component, ln.quantity, ln.unit, ln.unit_price, ln.exact_amount) for ln in lines] == [
        ("requests", 4, "request", Decimal("0.0007"), Decimal("0.0028")),
        ("input", 1000, "token", Decimal("0.00000175"), Decimal("0.00175")),
        ("output", 200, "token", Decimal("0.000007"), Decimal("0.0014")),
    ]
    assert lines[0].id == GROUP.line_id
    assert {line.usage_line_id for line in lines} == {GROUP.line_id}
    assert len({line.id for line in lines}) == 3
    assert all((ln.event_count, ln.checksum, ln.price_id) == (5, "77", GROUP.price_id) for ln in lines)


def test_late_usage_is_an_adjustment_that_names_its_month() -> None:
    late = replace(GROUP, period_start=SEPTEMBER.start, period_end=SEPTEMBER.end)
    lines = usage_lines(late, OCTOBER)
    assert {line.kind for line in lines} == {"adjustment"}
    assert lines[1].description == "gpt-4o: input tokens in September 2026 (eco)"


def test_usage_that_costs_nothing_has_one_line_that_says_so() -> None:
    free = replace(GROUP, byok=True, multiplier=Decimal(0), amount=Decimal(0))
    (line,) = usage_lines(free, OCTOBER)
    assert (line.quantity, line.exact_amount, line.description) == (
        5,
        Decimal(0),
        "gpt-4o: requests (eco, own provider key)",
    )


def test_quantities_that_do_not_give_what_was_rated_are_not_invoiced() -> None:
    with pytest.raises(BrokenInvariant, match="before it is invoiced"):
        usage_lines(replace(GROUP, amount=Decimal("0.00596")), OCTOBER)


def test_an_invoice_lists_fees_then_usage_then_adjustments_and_its_items_are_its_lines() -> None:
    late = replace(GROUP, line_id=UUID(int=9), period_start=SEPTEMBER.start, period_end=SEPTEMBER.end)
    fee = basic("19")
    invoice = make_invoice(
        UUID(int=1),
        UUID(int=5),
        "EUR",
        [*usage_lines(late, OCTOBER), *usage_lines(GROUP, OCTOBER), fee],
    )
    assert [line.kind for line in invoice.lines] == ["fee", *["usage"] * 3, *["adjustment"] * 3]
    items = msgspec.json.decode(invoice.items)
    assert [(i["id"], i["type"], Decimal(str(i["amount"]))) for i in items] == [
        (str(line.id), line.kind, amount) for line, amount in zip(invoice.lines, invoice.amounts, strict=True)
    ]
    assert (invoice.exact_subtotal, invoice.total) == (Decimal("19.0119"), Decimal("19.01"))


def test_tax_is_rounded_once_on_the_subtotal() -> None:
    fee = basic("9.99")
    invoice = make_invoice(UUID(int=1), UUID(int=5), "EUR", [fee], tax=Tax("S", Decimal("0.19")))
    assert (invoice.subtotal, invoice.tax, invoice.total) == (Decimal("9.99"), Decimal("1.90"), Decimal("11.89"))


counts = st.integers(0, 2**53)
prices = st.decimals(min_value=0, max_value=100, places=9, allow_nan=False)


@st.composite
def groups(draw: st.DrawFn) -> UsageGroup:
    quantities = [draw(counts) for _ in range(4)]
    per = [draw(prices) for _ in range(4)]
    multiplier = draw(st.sampled_from([Decimal("0.7"), Decimal("1.0"), Decimal("1.5"), Decimal(0)]))
    with exact():
        units = [per[0], *(p * ONE_TOKEN_OF_1K for p in per[1:])]
        amount = sum((q * u for q, u in zip(quantities, units, strict=True)), Decimal(0)) * multiplier
    return replace(
        GROUP, line_id=UUID(int=draw(st.integers(1, 2**100))), billed_requests=quantities[0], billed_input=quantities[1],
        billed_cached_input=quantities[2], billed_output=quantities[3], price_per_request=per[0], input_price_per_1k=per[1],
        cached_input_price_per_1k=per[2], output_price_per_1k=per[3], multiplier=multiplier, amount=amount,
    )  # fmt: skip


@given(groups())
def test_the_lines_of_a_group_sum_exactly_to_what_was_rated(group: UsageGroup) -> None:
    lines = usage_lines(group, OCTOBER)
    with exact():
        assert sum((line.exact_amount for line in lines), Decimal(0)) == group.amount
        assert all(line.exact_amount == line.quantity * (line.unit_price or Decimal(0)) for line in lines)


@given(st.lists(groups(), min_size=1, max_size=6), st.sampled_from(["USD", "JPY", "KWD"]))
def test_the_rounded_lines_of_an_invoice_sum_to_its_rounded_total(found: list[UsageGroup], currency: str) -> None:
    lines = [line for group in found for line in usage_lines(group, OCTOBER)]
    invoice = make_invoice(UUID(int=1), UUID(int=2), currency, lines)
    with exact():
        assert sum(invoice.amounts, Decimal(0)) == invoice.total == round_money(invoice.exact_subtotal, currency)
        assert invoice.exact_subtotal == sum((group.amount for group in found), Decimal(0))


@given(
    st.lists(st.decimals(-(10**6), 10**6, places=7, allow_nan=False), max_size=20),
    st.sampled_from(["USD", "JPY", "KWD"]),
)
def test_allocating_moves_no_amount_by_a_whole_unit_and_keeps_the_sum(amounts: list[Decimal], currency: str) -> None:
    rounded = allocate(amounts, currency)
    with exact():
        assert sum(rounded, Decimal(0)) == round_money(sum(amounts, Decimal(0)), currency)
        assert all(abs(r - a) < minor_unit(currency) for r, a in zip(rounded, amounts, strict=True))
    assert all(r == r.quantize(minor_unit(currency)) for r in rounded)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=20))
def test_allocating_whole_units_changes_nothing(cents: list[int]) -> None:
    amounts = [Decimal(c).scaleb(-2) for c in cents]
    assert allocate(amounts, "USD") == amounts
