"""Paying an invoice in the console: one charge for a form, by whose invoice it is, and the audit trail names them."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from shared.postgres import Pool
from tests.integration.console.conftest import SignIn, csrf_of, field_of
from tests.integration.payment_facts import Till, add_card


@pytest.fixture
def till(database_pool: Pool, app: FastAPI) -> Till:
    """Payments over a bank in memory, which the application asks, too."""
    till = Till(database_pool)
    app.state.tallystick.capabilities.__dict__["providers"] = till.providers
    return till


async def test_an_invoice_is_paid_once_and_by_whose_it_is(
    client: httpx.AsyncClient, sign_in: SignIn, till: Till, database_pool: Pool
) -> None:
    ada = await sign_in("admin")
    async with database_pool.acquire() as connection:
        await add_card(connection, ada.id)
    mine = await till.invoice(ada.id)
    other = await till.invoice(await till.customer())

    listed = await client.get("/console/invoices")
    assert "sent" in listed.text
    page = f"/console/invoices/{mine}"
    shown = await client.get(page)
    confirmed = await client.post(f"{page}/pay/preview", data={"csrf": csrf_of(shown)})
    assert "100.00" in confirmed.text
    assert till.bank.taken == 0, "looking at it charges nothing"
    form = {"csrf": csrf_of(confirmed), "idempotency_key": field_of(confirmed, "idempotency_key")}
    for _ in range(2):  # a double click
        assert (await client.post(f"{page}/pay", data=form)).status_code == 303
    assert till.bank.taken == 100
    assert await till.state(mine) == ("paid", 100)
    trail = await database_pool.fetch(
        "SELECT action, actor FROM audit_logs WHERE action LIKE 'payment.%' ORDER BY created_at"
    )
    assert [tuple(row) for row in trail] == [("payment.pending", "ada@example.com"), ("payment.completed", "billing")]

    for step in ("pay/preview", "pay"):
        refused = await client.post(f"/console/invoices/{other}/{step}", data=form)
        assert refused.status_code == 404
    assert till.bank.taken == 100
