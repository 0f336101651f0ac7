"""What a tenant does about money, keys and alerts in the console, as a person would tell it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest
from playwright.sync_api import Page, expect
from pypdf import PdfReader

from services.billing.notices.alerts import Alert, raise_alerts
from tests.browser.api import BANK_SECRET
from tests.browser.conftest import Person, Site, settled
from tests.integration.payment_facts import add_card, event, issue_invoice, session_object, signed


@pytest.fixture
def invoiced(site: Site, sign_in: Callable[..., Person]) -> tuple[Person, str]:
    """Somebody who is signed in, has a card, and an invoice over 100 dollars that is due in two weeks."""
    person = sign_in()

    async def work(connection: asyncpg.Connection) -> str:
        await add_card(connection, person.id)
        due = datetime.now(UTC) + timedelta(days=14)
        id_ = await issue_invoice(connection, person.id, issue_date=due - timedelta(days=14), due_date=due)
        return str(await connection.fetchval("SELECT number FROM invoices WHERE id = $1", id_))

    return person, str(site.with_database(work))


def test_an_invoice_is_read_kept_as_pdf_and_paid_once(page: Page, site: Site, invoiced: tuple[Person, str]) -> None:
    person, number = invoiced
    page.get_by_role("link", name="Invoices").click()
    settled(page, "invoices")
    page.get_by_role("link", name=number, exact=True).click()
    expect(page.get_by_role("heading", name=number)).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="PDF").click()
    assert number in download.value.suggested_filename
    assert number in "".join(sheet.extract_text() for sheet in PdfReader(download.value.path()).pages)
    settled(page, "invoice")
    page.get_by_role("button", name="Pay").click()
    expect(page.get_by_text("your stored payment method")).to_be_visible()
    settled(page, "invoice-pay")
    page.get_by_role("button", name="Pay US$100.00").dblclick()
    expect(page.get_by_text("Thank you: the invoice is paid.")).to_be_visible()
    expect(page.get_by_role("button", name="Pay")).to_have_count(0)
    assert site.ask("SELECT array_agg(amount) FROM payments WHERE user_id = $1", person.id) == [Decimal(100)]
    assert site.ask("SELECT status FROM invoices WHERE number = $1", number) == "paid"
    settled(page, "invoice-paid")


def test_credits_are_bought_once_and_there_when_the_bank_says_so(
    page: Page, site: Site, sign_in: Callable[..., Person]
) -> None:
    person = sign_in()
    page.get_by_role("link", name="Credits").click()
    settled(page, "credits")
    page.get_by_role("button", name=re.compile("^Buy")).first.click()
    settled(page, "credits-preview")
    page.get_by_role("button", name=re.compile("^Buy for")).dblclick()
    expect(page.get_by_role("heading", name="Pay")).to_be_visible()
    settled(page, "credits-pay")
    payment, amount = site.ask("SELECT array_agg((id, amount)) FROM payments WHERE user_id = $1", person.id)[0]
    assert page.get_by_role("link", name="Pay now").get_attribute("href") == f"https://pay.example/{payment.hex}"
    tell_that_it_came(site, payment, amount)
    page.get_by_role("link", name="Back to the credits").click()
    expect(page.get_by_role("region", name="Ledger").get_by_text("purchase").first).to_be_visible()
    bought = site.ask("SELECT balance FROM user_credits WHERE user_id = $1", person.id)
    assert bought > 0
    expect(page.locator(".figure", has_text="Balance").first).to_contain_text(f"{bought:,.2f}")
    settled(page, "credits-bought")


def tell_that_it_came(site: Site, payment: UUID, amount: Decimal) -> None:
    """Send the webhook of a checkout that was paid, as Stripe does."""
    body = event(
        "checkout.session.completed",
        session_object(f"cs_{payment.hex}", payment, f"pi_{payment.hex}", int(amount * 100)),
    )
    headers = {**signed(body, BANK_SECRET), "Content-Type": "application/json"}
    request = urllib.request.Request(f"{site.url}/api/v1/webhooks/stripe", body, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        assert json.load(answer)["outcome"] == "applied"


def test_a_key_at_a_provider_is_stored_used_replaced_and_forgotten(
    page: Page, site: Site, sign_in: Callable[..., Person]
) -> None:
    person = sign_in()
    page.get_by_role("link", name="Provider keys").click()
    for name in ("ours", "spare"):
        page.get_by_label("Provider", exact=True).fill("openai")
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_label("Key", exact=True).fill(f"sk-{name}-0123456789abcdef")
        page.get_by_role("button", name="Add a key").dblclick()
        expect(page.get_by_role("status")).to_contain_text("The key is stored, encrypted.")
    assert site.ask("SELECT count(*) FROM user_provider_keys WHERE user_id = $1", person.id) == 2
    assert "0123456789abcdef" not in page.content()
    expect(page.get_by_role("row", name=re.compile("ours"))).to_contain_text("in use")
    page.get_by_role("button", name="Use it spare").click()
    expect(page.get_by_role("row", name=re.compile("spare"))).to_contain_text("in use")
    settled(page, "provider-keys")
    page.get_by_role("link", name="Replace spare").click()
    page.get_by_label("Key", exact=True).fill("sk-another-fedcba9876543210")
    settled(page, "provider-key-replace")
    page.get_by_role("button", name="Replace the key").click()
    expect(page.get_by_role("status")).to_contain_text("The key is replaced.")
    page.get_by_role("button", name="Forget ours").click()
    expect(page.get_by_text("Requests are made without it from now on.")).to_be_visible()
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("row", name=re.compile("ours"))).to_have_count(0)


def test_alerts_are_read_and_chosen(page: Page, site: Site, sign_in: Callable[..., Person]) -> None:
    person = sign_in()
    told = [
        Alert(person.id, "usage_threshold", "1", "80 % of the requests of this period are used"),
        Alert(person.id, "payment_failed", "2", "The payment of 100.00 USD failed"),
    ]
    site.with_database(lambda connection: raise_alerts(connection, told))
    page.reload()
    page.get_by_role("link", name="80 % of the requests").click()
    settled(page, "alerts-unread")
    row = page.get_by_role("row", name=re.compile("80 % of the requests"))
    row.get_by_role("button", name="Mark as read").click()
    expect(row.get_by_role("button")).to_have_count(0)
    page.get_by_role("button", name="Mark all as read").click()
    expect(page.get_by_role("status")).to_contain_text("Marked as read: 1.")
    expect(page.get_by_role("button", name="Mark all as read")).to_have_count(0)
    assert site.ask("SELECT count(*) FROM billing_alerts WHERE user_id = $1 AND NOT is_read", person.id) == 0

    page.get_by_role("row", name=re.compile("comes to an amount")).get_by_label("At").fill("much")
    page.get_by_role("button", name="Keep the choice").click()
    expect(page.get_by_text("Please write numbers with commas")).to_be_visible()
    at = page.get_by_role("row", name=re.compile("comes to an amount")).get_by_label("At")
    expect(at).to_have_value("much")
    settled(page, "alerts-wrong")
    at.fill("100, 500")
    page.get_by_label("Credits run low").uncheck()
    page.get_by_role("button", name="Keep the choice").click()
    expect(page.get_by_role("status")).to_contain_text("Your choice is kept.")
    expect(page.get_by_label("Credits run low")).not_to_be_checked()
    chosen = "SELECT thresholds FROM alert_settings WHERE user_id = $1 AND kind = 'spend'"
    assert site.ask(chosen, person.id) == [Decimal(100), Decimal(500)]
    page.goto("/console/")
    expect(page.locator(".flash")).to_have_count(0)
