"""What finance does in the console about invoices that are wrong, or that nobody pays, as a person would tell it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from shared.postgres import create_pool
from tests.browser.conftest import Person, Site, now_in_thread, settled
from tests.integration.billing_facts import OCTOBER, Desk
from tests.integration.test_plans import subscribe


def invoiced(site: Site) -> str:
    """Return the number of an invoice for the fee of a plan, which has been due for days."""

    async def work() -> str:
        pool = await create_pool(site.database, max_size=2)
        try:
            desk = Desk(pool)
            subscription = await subscribe(desk, "basic", at=OCTOBER.start, currency="EUR")
            user = await desk.value("SELECT user_id FROM subscriptions WHERE id = $1", subscription)
            return (await desk.close(only_user=user)).invoices[0].number
        finally:
            await pool.close()

    found: str = now_in_thread(work())
    return found


def test_a_credit_note_is_written_after_a_look_at_what_it_does(
    page: Page, site: Site, sign_in: Callable[..., Person]
) -> None:
    number = invoiced(site)
    sign_in("finance", subscribed=False)
    page.get_by_role("link", name="Invoices").first.click()
    page.goto(f"/console/finance/invoices/{number}")
    page.get_by_role("link", name="Write a credit note").click()
    page.get_by_label("Take back of line 1").fill("a bit")
    page.get_by_label("Why").fill("an hour without service")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Please write a number, such as 12.50.")).to_be_visible()
    expect(page.get_by_label("Take back of line 1")).to_have_value("a bit")
    settled(page, "credit-note")
    page.get_by_label("Take back of line 1").fill("1.50")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="What this credit note does")).to_be_visible()
    settled(page, "credit-note-preview")
    page.get_by_role("button", name="Issue the credit note").dblclick()
    expect(page.get_by_text("an hour without service")).to_be_visible()
    query = "SELECT count(*) FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id WHERE i.number = $1 AND n.subtotal = 1.50"
    assert site.ask(query, number) == 1


def test_who_does_not_pay_is_found_and_dunning_paused_and_resumed(
    page: Page, site: Site, sign_in: Callable[..., Person]
) -> None:
    number = invoiced(site)
    sign_in("finance", subscribed=False)
    page.get_by_role("link", name="Dunning").click()
    settled(page, "dunning")
    page.get_by_role("link", name=number).click()
    expect(page.get_by_role("heading", name="What comes next")).to_be_visible()
    page.get_by_label("Why").fill("they call it wrong")
    page.get_by_role("button", name="Pause dunning").click()
    expect(page.get_by_text("nobody is reminded")).to_be_visible()
    page.get_by_role("button", name="Pause dunning").dblclick()
    expect(page.get_by_text("Nothing, until the dispute is settled.")).to_be_visible()
    settled(page, "dunning-of-invoice")
    page.get_by_label("Why").fill("agreed")
    page.get_by_role("button", name="Resume dunning").click()
    page.get_by_role("button", name="Resume dunning").click()
    expect(page.get_by_text("Dunning goes on.")).to_be_visible()
    assert site.ask("SELECT disputed_at FROM invoices WHERE number = $1", number) is None
