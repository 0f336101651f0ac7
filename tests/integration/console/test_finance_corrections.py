"""Finance writes credit notes and looks after who does not pay: in two steps, once however often it is clicked, and audited."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest

from services.billing.payments.collection import Collecting
from services.billing.payments.providers import Providers
from services.billing.payments.settings import PaymentSettings
from shared.clock import FixedClock
from shared.postgres import Pool
from tests.integration.billing_facts import Desk, make_customer, make_price, usage
from tests.integration.console.conftest import SignIn, field_of
from tests.integration.console.test_operator_pages import hidden
from tests.integration.test_invoice_corrections import TAXED


async def invoiced(pool: Pool) -> str:
    """Return the id of an invoice of 10.00 and 5.00 net, with tax."""
    desk = Desk(pool)
    await pool.execute(TAXED)
    await make_price(pool, per_1k=("1", "1", "1"))
    customer = await make_customer(pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000, response_tokens=5_000))
    return str((await desk.close(only_user=customer.user_id)).invoices[0].id)


async def test_a_credit_note_is_shown_before_it_is_issued_and_issued_once(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    page = f"/console/finance/invoices/{await invoiced(database_pool)}/credit-note"
    await sign_in("finance")
    asked = await client.get(page)
    assert asked.text.count('name="line-') == 2
    shown = await client.post(
        f"{page}/preview", data=hidden(asked) | {"line-1": "2.50", "line-2": "", "why": "a <i>test</i>"}
    )
    assert shown.status_code == 200, shown.text
    for expected in ("$2.50", "$0.48", "$2.98", "$17.85", "$14.87", "a &lt;i&gt;test&lt;/i&gt;"):
        assert expected in shown.text, expected
    assert await database_pool.fetchval("SELECT count(*) FROM credit_notes") == 0, "looking at it changes nothing"
    for _ in range(2):  # a double click
        done = await client.post(page, data=hidden(shown))
        assert done.status_code == 303, done.text
    notes = await database_pool.fetch("SELECT number, subtotal, reason, actor FROM credit_notes")
    assert [(n["number"], n["subtotal"], n["reason"]) for n in notes] == [
        ("CN-2026-000001", Decimal("2.50"), "a <i>test</i>")
    ]
    assert "ada@example.com" in notes[0]["actor"]
    entries = await database_pool.fetch("SELECT actor, after FROM audit_logs WHERE action = 'credit_note.issued'")
    assert [entry["actor"] for entry in entries] == [notes[0]["actor"]]
    assert "CN-2026-000001" in (await client.get(done.headers["location"])).text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"line-1": "a lot"}, "Please write a number, such as 12.50."),
        ({"line-1": "2.50", "why": ""}, "Please fill this in."),
        ({}, "Write what is to be taken back of at least one line"),
        ({"line-1": "99"}, "10.00 are left of it"),
    ],
)
async def test_what_cannot_be_is_said_and_what_was_typed_is_kept(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool, typed: dict[str, str], said: str
) -> None:
    page = f"/console/finance/invoices/{await invoiced(database_pool)}/credit-note"
    await sign_in("finance")
    asked = await client.get(page)
    wrong = await client.post(f"{page}/preview", data=hidden(asked) | {"why": "agreed"} | typed)
    assert wrong.status_code in (409, 422)
    assert said in wrong.text
    assert all(f'value="{value}"' in wrong.text for value in typed.values() if value)


async def test_all_that_is_left_is_taken_back_and_then_nothing_is(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    page = f"/console/finance/invoices/{await invoiced(database_pool)}/credit-note"
    await sign_in("finance")
    shown = await client.post(f"{page}/preview", data=hidden(await client.get(page)) | {"whole": "on", "why": "agreed"})
    assert (await client.post(page, data=hidden(shown))).status_code == 303
    assert await database_pool.fetchval("SELECT total - amount_credited FROM invoices") == 0
    assert 'name="line-' not in (await client.get(page)).text


async def test_who_is_overdue_is_listed_with_the_next_step_and_paused_and_resumed(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    invoice = await invoiced(database_pool)
    due = await database_pool.fetchval("SELECT due_date FROM invoices")
    clock = FixedClock(due + timedelta(hours=1))
    collecting = Collecting(database_pool, Providers(PaymentSettings()), clock, (0, 3, 7, 14))
    assert await collecting.dun() == {"remind": 1}
    await sign_in("finance")
    listed = await client.get("/console/finance/dunning")
    assert "INV-2026-000001" in listed.text
    assert "1: remind" in listed.text
    page = f"/console/finance/invoices/{invoice}/dunning"
    shown = await client.get(page)
    assert "Step 2: remind" in shown.text

    before = await client.post(f"{page}/pause/preview", data=hidden(shown) | {"why": "they dispute it"})
    for _ in range(2):
        assert (await client.post(f"{page}/pause", data=hidden(before))).status_code == 303
    assert await database_pool.fetchval("SELECT dispute_reason FROM invoices") == "they dispute it"
    assert await database_pool.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'invoice.disputed'") == 1
    clock.at = due + timedelta(days=4)
    assert await collecting.dun() == {}
    shown = await client.get(page)
    assert "Nothing, until the dispute is settled." in shown.text
    assert "INV-2026-000001" in (await client.get("/console/finance/dunning", params={"disputed": "yes"})).text
    assert "INV-2026-000001" not in (await client.get("/console/finance/dunning", params={"disputed": "no"})).text
    before = await client.post(f"{page}/resume/preview", data=hidden(shown) | {"why": "agreed"})
    assert (await client.post(f"{page}/resume", data=hidden(before))).status_code == 303
    assert await collecting.dun() == {"remind": 1}
    assert len(re.findall(r"<td[^>]*>remind</td>", (await client.get(page)).text)) == 2
    assert field_of(await client.get(page), "idempotency_key")
