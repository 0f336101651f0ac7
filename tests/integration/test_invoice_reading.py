"""Invoices as documents: parties, tax and lines as they were when they were issued, whatever changes later."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from services.billing.invoices.document import Party, TaxAmount
from services.billing.invoices.reading import InvoiceNotFound, read_invoice, read_invoices
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.billing_facts import Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool, per_1k=("1", "1", "1"))
    await database_pool.execute(
        "UPDATE legal_entities SET name = 'Acme GmbH', "
        "city = 'Berlin', country = 'DE', vat_id = 'DE136695976', tax_rate = 0.19, iban = 'DE89370400440532013000'"
    )
    return Desk(database_pool)


async def test_an_invoice_is_read_whole_by_id_or_number(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.pool.execute(
        "INSERT INTO billing_profiles (user_id, name, city, country, language, buyer_reference) VALUES ($1, 'Ada SARL', 'Lyon', 'FR', 'fr', 'PO 7')",
        customer.user_id,
    )
    await desk.use(usage(customer.subscription_id, request_tokens=10_010, response_tokens=500))
    issued = (await desk.close()).invoices[0]
    async with desk.billing.acquire() as connection:
        invoice = await read_invoice(connection, issued.number)
        assert invoice == await read_invoice(connection, str(issued.id))
        assert [invoice] == await read_invoices(connection, [issued.id])
        with pytest.raises(InvoiceNotFound, match="tallystick invoice list"):
            await read_invoice(connection, "INV-2026-000099")
    assert invoice.seller == Party(
        name="Acme GmbH", city="Berlin", country="DE", vat_id="DE136695976", iban="DE89370400440532013000"
    )
    assert (invoice.buyer.name, invoice.buyer.city, invoice.buyer.buyer_reference) == ("Ada SARL", "Lyon", "PO 7")
    assert (invoice.language, invoice.payment_terms_days, invoice.status) == ("fr", 14, "sent")
    assert invoice.taxes == (TaxAmount("S", Decimal("0.19"), Decimal("10.51"), Decimal("2.00")),)
    assert (invoice.subtotal, invoice.tax, invoice.total, invoice.amount_due) == (
        Decimal("10.51"), Decimal("2.00"), Decimal("12.51"), Decimal("12.51"),
    )  # fmt: skip
    assert [(ln.position, ln.kind, ln.quantity, ln.amount, ln.tax_category, ln.tax_rate) for ln in invoice.lines] == [
        (1, "usage", Decimal(10_010), Decimal("10.01"), "S", Decimal("0.19")),
        (2, "usage", Decimal(500), Decimal("0.50"), "S", Decimal("0.19")),
    ]
    assert invoice.lines[0].dimensions["model_id"] == "gpt-4o"


async def test_what_changes_later_does_not_change_an_issued_invoice(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    number = (await desk.close()).invoices[0].number
    async with desk.billing.acquire() as connection:
        before = await read_invoice(connection, number)
    await desk.pool.execute("UPDATE legal_entities SET name = 'Other', tax_rate = 0.2, language = 'de'")
    await desk.pool.execute("UPDATE users SET full_name = 'Somebody Else', email = 'else@example.com'")
    async with desk.billing.acquire() as connection:
        assert await read_invoice(connection, number) == before
    assert before.buyer.email is not None


@pytest.mark.parametrize(
    ("profile", "category", "rate", "reason"),
    [
        ({"tax_rate": Decimal("0.07")}, "S", "0.07", None),
        ({"tax_rate": Decimal(0)}, "Z", "0", None),
        ({"tax_treatment": "reverse_charge", "vat_id": "FR40303265045"}, "AE", "0", "Reverse charge"),
        ({"tax_treatment": "exempt", "exemption_reason": "Article 151"}, "E", "0", "Article 151"),
    ],
)
async def test_each_customer_is_taxed_as_its_profile_says(
    desk: Desk, profile: dict[str, object], category: str, rate: str, reason: str | None
) -> None:
    customer = await make_customer(desk.pool)
    names = ", ".join(profile)
    places = ", ".join(f"${n}" for n in range(2, 2 + len(profile)))
    await desk.pool.execute(
        f"INSERT INTO billing_profiles (user_id, name, {names}) VALUES ($1, 'Ada', {places})",  # noqa: S608
        customer.user_id,
        *profile.values(),
    )
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    number = (await desk.close()).invoices[0].number
    async with desk.billing.acquire() as connection:
        invoice = await read_invoice(connection, number)
    (tax,) = invoice.taxes
    assert (tax.category, tax.rate, tax.reason) == (category, Decimal(rate), reason)
    assert tax.tax == invoice.tax == Decimal(10) * Decimal(rate)
    assert {(line.tax_category, line.tax_rate) for line in invoice.lines} == {(category, Decimal(rate))}


async def test_an_invoice_from_before_parties_were_kept_has_those_of_today(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    id_ = uuid7()
    await desk.pool.execute(
        """INSERT INTO invoices (id, user_id, currency, period_start, period_end, number, status, issue_date, due_date,
                                 subtotal, tax, tax_rate, total)
           VALUES ($1, $2, 'USD', '2026-01-01Z', '2026-02-01Z', 'OLD-1', 'sent', '2026-02-02Z', '2026-02-16Z', 10, 1, 0.1, 11)""",
        id_,
        customer.user_id,
    )
    async with desk.billing.acquire() as connection:
        invoice = await read_invoice(connection, id_)
    assert (invoice.seller.name, invoice.buyer.name) == ("Acme GmbH", f"{customer.user_id.hex}@example.com")
    assert invoice.taxes == (TaxAmount("S", Decimal("0.1"), Decimal(10), Decimal(1)),)
    assert replace(invoice, amount_paid=Decimal(4), amount_credited=Decimal(2)).amount_due == 5
