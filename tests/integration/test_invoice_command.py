"""`tallystick invoice` on a real database, as a person runs it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.cli.main import run
from shared.postgres import Pool
from tests.integration.billing_facts import Customer, Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("DATABASE_URL", database)
    await make_price(database_pool, per_1k=("1", "1", "1"))
    return Desk(database_pool)


@pytest.fixture
async def customer(desk: Desk) -> Customer:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000, response_tokens=5_000))
    return customer


class Terminal:
    """Where commands are typed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run `tallystick invoice …`; return what it said, on either stream if it failed."""
        self._capsys.readouterr()
        got = await asyncio.to_thread(run, ["invoice", *arguments])
        said = self._capsys.readouterr()
        assert got == code, said.err or said.out
        return said.err if code else said.out

    async def json(self, *arguments: str) -> Any:
        """Run it with --json; return what that says."""
        return json.loads(await self(*arguments, "--json"))


@pytest.fixture
def invoice(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


async def test_a_month_from_preview_to_credit_note(desk: Desk, customer: Customer, invoice: Terminal) -> None:
    who, month = str(customer.user_id), "2026-10"
    await invoice(
        "entity", "default", "--name", "Acme GmbH", "--country", "de", "--vat-id", "DE 136 695 976", "--tax-rate", "19%"
    )
    await invoice(
        "profile",
        who,
        "--name",
        "Ada SARL",
        "--country",
        "FR",
        "--language",
        "fr",
        "--payment-days",
        "30",
        "--by",
        "finance",
    )
    (previewed,) = await invoice.json("preview", "--user", who, "--period", month)
    assert (previewed["invoice"]["total"], previewed["invoice"]["buyer"]["name"]) == ("17.85", "Ada SARL")
    assert await invoice("draft", "--period", month) == "1 draft\n"
    assert "draft" in await invoice("list", "--user", who)
    closed = await invoice.json("close", "--period", month)
    assert [(i["number"], i["total"]) for i in closed["invoices"]] == [("INV-2026-000001", "17.85")]
    shown = await invoice("show", "INV-2026-000001")
    for part in ("Acme GmbH", "Ada SARL", "gpt-4o: input tokens (balanced)", "tax 19 % of 15.00", "17.85 USD"):
        assert part in shown

    await invoice("dispute", "INV-2026-000001", "--why", "half of it was a test")
    assert "disputed" in await invoice("list", "--disputed")
    await invoice("credit-note", "INV-2026-000001", "--line", "2=2.50", "--why", "agreed", "--yes", "--by", "finance")
    await invoice("dispute", "INV-2026-000001", "--settled")
    note = await invoice.json("show", "CN-2026-000001")
    assert (note["total"], note["actor"], note["invoice_number"]) == ("2.98", "finance", "INV-2026-000001")
    (listed,) = await invoice.json("list", "--status", "sent")
    assert (listed["amount_due"], listed["disputed"]) == ("14.87", False)

    await invoice("void", "INV-2026-000001", "--why", "wrong customer number", "--rebill", "--yes")
    assert (await invoice.json("close", "--period", month))["invoices"][0]["total"] == "17.85"
    assert "billed again" in await invoice("show", "INV-2026-000001")
    actors = await desk.fetch("SELECT DISTINCT actor FROM audit_logs WHERE action = 'billing_profile.changed'")
    assert [row["actor"] for row in actors] == ["finance"]


REFUSED = [
    (("show", "INV-2026-000009"), "there is no invoice INV-2026-000009"),
    (("preview", "--user", "nobody@example.com"), "there is no user nobody@example.com"),
    (("close", "--period", "2026-13"), "'2026-13' is not a month"),
    (("close", "--period", "2099-01"), "cannot be closed before"),
    (
        ("credit-note", "INV-2026-000001", "--why", "x", "--line", "1=9999", "--yes"),
        "cannot be taken back of line 1",
    ),
    (("credit-note", "INV-2026-000001", "--why", "x", "--line", "one", "--yes"), "is not a position"),
    (("credit-note", "INV-2026-000001", "--why", " ", "--yes"), "--why is empty"),
    (("dispute", "INV-2026-000001"), "--why it is disputed"),
    (("dispute", "INV-2026-000001", "--settled"), "is not disputed"),
    (("entity", "default", "--vat-id", "DE136695977"), "wrong check digit"),
    (("entity", "default", "--iban", "DE89"), "is not an IBAN"),
    (("entity", "default", "--tax-rate", "19"), "write 19% or 0.19"),
    (("entity", "default", "--tax-rate", "19%"), "has a VAT number or a tax number"),
    (("entity", "default", "--prefix", "X"), "has issued invoices"),
    (("entity", "new"), "give its --name"),
]


async def test_what_cannot_be_is_one_line_that_says_why(desk: Desk, customer: Customer, invoice: Terminal) -> None:
    await desk.close(only_user=customer.user_id)
    for arguments, reason in REFUSED:
        said = await invoice(*arguments, code=2)
        assert reason in said
        assert said.count("\n") == 1, said


async def test_a_customer_cannot_be_noted_as_what_it_cannot_be(
    desk: Desk, customer: Customer, invoice: Terminal
) -> None:
    who = str(customer.user_id)
    for arguments, reason in [
        (("--tax", "reverse_charge"), "needs the customer's VAT number"),
        (("--tax", "exempt"), "needs its reason"),
        (("--vat-id", "DE136695976", "--country", "FR"), "the address is in FR"),
        (("--entity", "nobody"), "no such legal entity"),
        (("--country", "Germany"), "cannot be right"),
    ]:
        assert reason in await invoice("profile", who, *arguments, code=2)
    assert await desk.value("SELECT count(*) FROM billing_profiles") == 0
