"""Payments, the pure parts: statuses, amounts, references, statements, the schedule, and what Stripe's objects say."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.payments import stripe_reading as reading
from services.billing.payments.dunning import Made, Step, next_step, parse_days
from services.billing.payments.matching import Candidate, Match, NoMatch, match, normalised, possible_numbers
from services.billing.payments.provider import NotConfigured, PaymentStatus
from services.billing.payments.providers import Providers
from services.billing.payments.settings import PaymentSettings
from services.billing.payments.state import (
    PAYMENT_RANK,
    AmountRefused,
    InvoiceStatus,
    Owed,
    checked_amount,
    invoice_status,
    joined_payment,
    joined_refund,
    refundable,
)
from services.billing.payments.statement import StatementRefused, read_statement
from shared.money import MINOR_UNITS, minor_unit

DUE = datetime(2026, 11, 15, tzinfo=UTC)
statuses = st.sampled_from(sorted(PAYMENT_RANK))


# --- statuses and amounts


@given(st.lists(statuses, min_size=1, max_size=6))
def test_reports_in_any_order_and_repetition_end_alike(told: list[PaymentStatus]) -> None:
    ends = set()
    for order in list(permutations(told))[:24]:
        status: PaymentStatus = "pending"
        for report in (*order, *order):
            status = joined_payment(status, report)
        ends.add(status)
    assert len(ends) == 1


def test_money_that_came_is_never_forgotten_for_a_failure() -> None:
    assert joined_payment("completed", "failed") == "completed"
    assert joined_payment("failed", "completed") == "completed"
    assert joined_refund("completed", "failed") == "failed", "a bank may return a refund that was done"


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("0.001", "USD"), ("1.5", "JPY"), ("1.2345", "KWD"), ("0", "EUR"), ("-1", "EUR"), ("inf", "EUR")],
)
def test_amounts_that_cannot_be_paid(amount: str, currency: str) -> None:
    with pytest.raises(AmountRefused):
        checked_amount(Decimal(amount), currency)


@pytest.mark.parametrize(
    ("status", "credited", "paid", "expected"),
    [
        ("sent", 0, 0, "sent"),
        ("sent", 0, 1, "partially_paid"),
        ("overdue", 0, 1, "overdue"),
        ("overdue", 0, 100, "paid"),
        ("sent", 40, 60, "paid"),
        ("paid", 0, 60, "partially_paid"),
        ("draft", 0, 0, "draft"),
        ("cancelled", 0, 0, "cancelled"),
    ],
)
def test_the_status_of_an_invoice_follows_from_its_payments(
    status: InvoiceStatus, credited: int, paid: int, expected: InvoiceStatus
) -> None:
    assert invoice_status(Owed(status, Decimal(100), Decimal(credited), Decimal(paid))) == expected


def test_refunds_under_way_count_and_failed_ones_do_not() -> None:
    refunds = [(Decimal(10), "completed"), (Decimal(20), "pending"), (Decimal(50), "failed")]
    assert refundable(Decimal(100), refunds) == 70  # type: ignore[arg-type]


# --- references


@pytest.mark.parametrize(
    "text",
    [
        "INV-2026-000001",
        "Rechnung inv 2026 000001 danke",
        "INV/2026/0000 01",
        "ref:INV2026000001;",
        "payment of inv_2026_000001",
    ],
)
def test_a_number_is_found_as_people_write_it(text: str) -> None:
    assert normalised("INV-2026-000001") in possible_numbers(text)


@pytest.mark.parametrize("text", ["INV-2026-0000011", "XINV-2026-000001", "INV-2026-00000", "000001", ""])
def test_a_number_is_not_found_within_another(text: str) -> None:
    assert normalised("INV-2026-000001") not in possible_numbers(text)


def candidate(number: int, user: int = 1, currency: str = "EUR", *, cancelled: bool = False) -> Candidate:
    return Candidate(UUID(int=number), UUID(int=user), f"INV-{number}", currency, Decimal(10), cancelled)


def test_a_transfer_pays_the_invoices_it_names() -> None:
    assert match("EUR", [candidate(1), candidate(2)]) == Match(UUID(int=1), [UUID(int=1), UUID(int=2)])


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ([], "it names no invoice"),
        ([candidate(1), candidate(2, user=2)], "it names invoices of several customers: INV-1, INV-2"),
        ([candidate(1, currency="USD")], "it is in EUR, but invoice INV-1 is in USD"),
        ([candidate(1, cancelled=True)], "the invoice it names is cancelled: INV-1"),
    ],
)
def test_a_transfer_that_a_person_must_look_at(named: list[Candidate], reason: str) -> None:
    assert match("EUR", named) == NoMatch(reason)


# --- statements

HEADER = "booked_on,amount,currency,reference,counterparty\n"


def test_a_statement_is_read_with_either_separator_in_any_order_of_columns() -> None:
    text = '\ufeffamount;currency;booked_on;reference\n1234.50;EUR;2026-11-02;"INV-1; thanks"\n'
    (line,) = read_statement(text)
    assert (line.amount, line.currency, line.booked_on.isoformat(), line.reference) == (
        Decimal("1234.50"),
        "EUR",
        "2026-11-02",
        "INV-1; thanks",
    )


def test_lines_that_say_the_same_are_told_apart_by_their_place_and_known_again() -> None:
    row = "2026-11-02,10.00,EUR,INV-1,Ada\n"
    once, twice = read_statement(HEADER + row), read_statement(HEADER + row + "2026-11-03,1.00,EUR,x,y\n" + row)
    assert len({line.identity for line in twice}) == 3
    assert once[0].identity == twice[0].identity
    again = read_statement(HEADER + "2026-11-02,10,EUR,INV-1 ,Ada\n")
    assert again[0].identity == once[0].identity, "the same amount, spelled in another way"


def test_the_banks_own_id_identifies_a_line() -> None:
    header = "booked_on,amount,currency,reference,bank_id,account\n"
    (one,) = read_statement(header + "2026-11-02,10.00,EUR,INV-1,T1,DE1\n")
    (other,) = read_statement(header + "2026-11-02,10.00,EUR,INV-1 corrected,T1,DE1\n")
    assert one.identity == other.identity
    with pytest.raises(StatementRefused, match="line 3: bank_id T1 is that of line 2 already"):
        read_statement(header + "2026-11-02,10.00,EUR,a,T1,DE1\n" * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column booked_on"),
        ("booked_on,amount,currency\n", "has no column reference"),
        ("booked_on,amount,currency,reference,betrag\n", "has the unknown column betrag"),
        (HEADER + "2026-11-02,10.00,EUR,x\n", "line 2: it has not as many fields"),
        (HEADER + "02.11.2026,10.00,EUR,x,y\n", "line 2: '02.11.2026' is not a day"),
        (HEADER + '2026-11-02,"10,00",EUR,x,y\n', "line 2: '10,00' is not an amount"),
        (HEADER + "2026-11-02,10.001,EUR,x,y\n", "line 2: 10.001 EUR has too many digits"),
        (HEADER + "2026-11-02,0,EUR,x,y\n", "line 2: 0 EUR cannot be paid"),
        (HEADER + "2026-11-02,nan,EUR,x,y\n", "line 2: 'nan' is not an amount"),
        (HEADER + "2026-11-02,10,eur,x,y\n", "line 2: 'eur' is not a currency"),
        (HEADER + f"2026-11-02,10,EUR,{'x' * 1001},y\n", "line 2: reference is longer than 1000"),
        (HEADER + '2026-11-02,10,EUR,"x,y\n', "not CSV"),
    ],
)
def test_a_statement_that_cannot_be_read_names_the_line(text: str, message: str) -> None:
    with pytest.raises(StatementRefused, match=message):
        read_statement(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for statement in (text, HEADER + text):
        with suppress(StatementRefused):
            read_statement(statement)


# --- the schedule


def test_the_schedule_charges_waits_and_suspends() -> None:
    days, made, steps = (0, 3, 7), None, []
    while step := next_step(days, DUE, made, chargeable=True):
        steps.append(step)
        made = Made(step.number, step.action, step.due_at)
    assert steps == [
        Step(0, "charge", DUE), Step(1, "charge", DUE + timedelta(days=3)), Step(2, "charge", DUE + timedelta(days=7)),
        Step(3, "suspend", DUE + timedelta(days=7)),
    ]  # fmt: skip


def test_steps_that_were_missed_keep_their_distance() -> None:
    late = DUE + timedelta(days=30)
    step = next_step((0, 3, 7), DUE, Made(0, "charge", late), chargeable=False)
    assert step == Step(1, "remind", late + timedelta(days=3))


def test_a_schedule_that_was_shortened_ends_with_the_suspension() -> None:
    assert next_step((0,), DUE, Made(3, "charge", DUE), chargeable=True) == Step(4, "suspend", DUE)
    assert next_step((0,), DUE, Made(4, "suspend", DUE), chargeable=True) is None
    assert next_step((0,), DUE, Made(0, "charge", DUE), chargeable=True, suspend=False) is None


@pytest.mark.parametrize("text", ["", "3,3", "7,3", "-1,2", "a", "0,366"])
def test_a_schedule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_days(text)


# --- Stripe


@given(st.sampled_from(["USD", "EUR", "JPY", "KWD", "ISK", "UGX", *sorted(MINOR_UNITS)]), st.integers(1, 10**11))
def test_stripes_units_mean_the_amount(currency: str, units: int) -> None:
    amount = units * minor_unit(currency)
    assert reading.of_minor_units(reading.to_minor_units(amount, currency), currency.lower()) == amount


def test_currencies_that_stripe_counts_otherwise() -> None:
    assert reading.to_minor_units(Decimal(500), "ISK") == 50_000
    assert reading.to_minor_units(Decimal(500), "JPY") == 500
    with pytest.raises(ValueError, match="more digits than Stripe takes"):
        reading.to_minor_units(Decimal("1.50"), "MGA")


# --- which provider


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paypal", "paypal is not configured: this version has no adapter"),
        ("wise", "wise is not configured: this version has no adapter"),
    ],
)
async def test_providers_without_an_adapter_say_so(name: str, message: str) -> None:
    provider = Providers(PaymentSettings(payment_provider=name)).preferred
    with pytest.raises(NotConfigured, match=message):
        await provider.list_methods("x")


def test_stripe_without_a_key_says_what_is_missing() -> None:
    with pytest.raises(NotConfigured, match="TALLYSTICK_STRIPE_API_KEY"):
        _ = Providers(PaymentSettings(payment_provider="stripe")).preferred
