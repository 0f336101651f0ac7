"""Invoices and credit notes as JSON and as files, the running month, and why a line is what it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from pypdf import PdfReader

from services.billing.invoices import corrections
from shared.postgres import Pool, transaction
from tests.integration.api.facts import Customer, Facts
from tests.integration.billing_facts import Desk, make_customer, make_price, usage

MODEL = "invoiced-model"
OCTOBER = datetime(2026, 10, 14, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Billed:
    """Somebody who got an invoice for October and went on in November."""

    customer: Customer
    number: str
    desk: Desk

    @property
    def headers(self) -> dict[str, str]:
        return self.customer.headers


async def make_billed(facts: Facts, pool: Pool, **account: Any) -> Billed:
    async with pool.acquire() as connection:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM model_prices WHERE model_id = $1)", MODEL):
            await make_price(connection, model=MODEL)
        made = await make_customer(connection, **account)
    key_id, key = await facts.key(made.subscription_id)
    desk, mine = Desk(pool), made.subscription_id
    await desk.use(
        *(
            usage(mine, at=OCTOBER + timedelta(minutes=n), model=MODEL, request_tokens=100 + n, response_tokens=7)
            for n in range(30)
        )
    )
    await desk.use(usage(mine, at=datetime(2026, 11, 10, tzinfo=UTC), model=MODEL, request_tokens=1_900_000))
    closing = await desk.close(only_user=made.user_id)
    number = closing.invoices[0].number if closing.invoices else ""
    return Billed(Customer(made.user_id, made.subscription_id, key_id, key), number, desk)


@pytest_asyncio.fixture
async def billed(facts: Facts, database_pool: Pool) -> Billed:
    return await make_billed(facts, database_pool)


async def ask(client: httpx.AsyncClient, who: Billed | Customer, path: str, **parameters: Any) -> Any:
    answer = await client.get(f"/api/v1/{path}", params=parameters, headers=who.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_invoice_in_the_list_and_whole(client: httpx.AsyncClient, billed: Billed) -> None:
    listed = await ask(client, billed, "invoices", offset=0)
    [row] = listed["items"]
    assert (listed["total"], row["number"], row["status"], row["period_start"]) == (
        1,
        billed.number,
        "sent",
        "2026-10-01T00:00:00Z",
    )
    invoice = await ask(client, billed, f"invoices/{billed.number}")
    assert invoice == await ask(client, billed, f"invoices/{row['id']}")
    assert {line["component"]: line["event_count"] for line in invoice["lines"]} == {"input": 30, "output": 30}
    assert (
        sum(Decimal(line["amount"]) for line in invoice["lines"])
        == Decimal(invoice["subtotal"])
        == Decimal(row["subtotal"])
    )
    assert (invoice["amount_due"], invoice["credit_notes"], invoice["buyer"]["email"] is not None) == (
        row["amount_due"],
        [],
        True,
    )
    assert (await ask(client, billed, "invoices", status="paid"))["items"] == []


async def test_invoices_as_files(client: httpx.AsyncClient, billed: Billed) -> None:
    pdf = await client.get(f"/api/v1/invoices/{billed.number}/pdf", headers=billed.headers)
    assert (pdf.headers["content-type"], pdf.headers["content-disposition"]) == (
        "application/pdf", f'inline; filename="{billed.number}.pdf"',
    )  # fmt: skip
    assert billed.number in PdfReader(BytesIO(pdf.content)).pages[0].extract_text()
    html = await client.get(f"/api/v1/invoices/{billed.number}/html", headers=billed.headers)
    assert html.headers["content-type"].startswith("text/html")
    assert "style-src 'unsafe-inline'" in html.headers["content-security-policy"]
    assert billed.number in html.text


async def test_an_e_invoice_needs_the_parties_facts(client: httpx.AsyncClient, billed: Billed, facts: Facts) -> None:
    xml = await client.get(f"/api/v1/invoices/{billed.number}/e-invoice", headers=billed.headers)
    assert (xml.status_code, xml.json()["type"]) == (409, "urn:tallystick:problem:conflict")
    assert "the seller's country" in xml.json()["detail"]
    before = await facts.pool.fetchrow("SELECT country, tax_number FROM legal_entities WHERE id = 'default'")
    await facts.pool.execute("UPDATE legal_entities SET country = 'DE', tax_number = '1/2/3' WHERE id = 'default'")
    try:
        async with facts.pool.acquire() as connection:
            made = await make_customer(connection)
            await connection.execute(
                "INSERT INTO billing_profiles (user_id, name, country) VALUES ($1, 'Ada Ltd', 'DE')", made.user_id
            )
        key_id, key = await facts.key(made.subscription_id)
        ada = Customer(made.user_id, made.subscription_id, key_id, key)
        await billed.desk.use(usage(made.subscription_id, at=OCTOBER, model=MODEL, request_tokens=100_000))
        [issued] = (await billed.desk.close(only_user=made.user_id)).invoices
    finally:
        await facts.pool.execute(
            "UPDATE legal_entities SET country = $1, tax_number = $2 WHERE id = 'default'", *before
        )
    xml = await client.get(f"/api/v1/invoices/{issued.number}/e-invoice", headers=ada.headers)
    assert (xml.status_code, xml.headers["content-type"]) == (200, "application/xml")
    assert b"CrossIndustryInvoice" in xml.content
    assert issued.number.encode() in xml.content


async def test_a_server_without_the_extra_says_so(
    client: httpx.AsyncClient, billed: Billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys  # noqa: PLC0415

    monkeypatch.setitem(sys.modules, "services.billing.documents.rendering", None)
    answer = await client.get(f"/api/v1/invoices/{billed.number}/pdf", headers=billed.headers)
    assert (answer.status_code, answer.json()["type"]) == (406, "urn:tallystick:problem:not-acceptable")
    assert "tallystick[documents]" in answer.json()["detail"]


async def test_credit_notes(client: httpx.AsyncClient, billed: Billed, facts: Facts) -> None:
    async with transaction(facts.pool) as connection:
        note = await corrections.credit_note(
            connection,
            billed.number,
            None,
            reason="agreed",
            at=datetime(2026, 11, 5, tzinfo=UTC),
            actor="test",
            idempotency_key=None,
        )
    [row] = (await ask(client, billed, "credit-notes"))["items"]
    assert (row["number"], row["invoice_number"], row["reason"]) == (note.number, billed.number, "agreed")
    whole = await ask(client, billed, f"credit-notes/{note.number}")
    assert sum(Decimal(line["amount"]) for line in whole["lines"]) == Decimal(row["subtotal"])
    assert (await ask(client, billed, f"invoices/{billed.number}"))["credit_notes"] == [note.number]
    pdf = await client.get(f"/api/v1/credit-notes/{note.number}/pdf", headers=billed.headers)
    assert pdf.content.startswith(b"%PDF")


async def test_the_running_month_and_its_forecast(client: httpx.AsyncClient, billed: Billed) -> None:
    current = await ask(client, billed, "invoices/current")
    assert (current["period_start"], current["as_of"]) == ("2026-11-01T00:00:00Z", "2026-11-20T12:00:00Z")
    [cost] = current["items"]
    assert (cost["currency"], cost["subtotal"]) == ("USD", "4.75")
    elapsed = Decimal("19.5") / 30
    assert Decimal(cost["forecast"]) == (Decimal("4.75") / elapsed).quantize(Decimal("0.01"))
    assert [line["quantity"] for line in cost["lines"]] == ["1900000"]


async def test_who_owes_nothing_has_no_cost(client: httpx.AsyncClient, billed: Billed, facts: Facts) -> None:
    assert (await ask(client, await facts.customer(plan_id="metered"), "invoices/current"))["items"] == []


# Why


async def test_a_line_is_explained_down_to_its_events(client: httpx.AsyncClient, billed: Billed) -> None:
    whole = await ask(client, billed, f"explain/{billed.number}", events=3)
    assert whole["holds"]
    assert [(item["kind"], item["event_count"], len(item["events"])) for item in whole["items"]] == [
        ("line", 30, 3)
    ] * 2
    [line] = (await ask(client, billed, f"explain/{billed.number}/1"))["items"]
    assert line["stated"] == line["recomputed"]
    assert (len(line["events"]), line["details"]["origins"][0]["topic"]) == (20, "usage.events")
    [same] = (await ask(client, billed, f"explain/{line['details']['id']}"))["items"]
    assert same == line
    seen, cursor = [], None
    while True:
        part = await ask(
            client, billed, f"explained-events/{billed.number}/1", limit=7, **({"cursor": cursor} if cursor else {})
        )
        seen += part["items"]
        if (cursor := part["next_cursor"]) is None:
            break
    assert [event["request_tokens"] for event in seen] == list(range(100, 130))
    assert {event["sign"] for event in seen} == {1}


async def test_a_summary_is_explained(client: httpx.AsyncClient, billed: Billed) -> None:
    name = f"{billed.customer.subscription_id}/day/2026-10-14/{MODEL}"
    [summary] = (await ask(client, billed, f"explain/{name}"))["items"]
    assert (summary["kind"], summary["holds"], summary["details"]["logged"]["request_count"]) == ("summary", True, 30)
    part = await ask(client, billed, f"explained-events/{name}", limit=29)
    rest = await ask(client, billed, f"explained-events/{name}", limit=29, cursor=part["next_cursor"])
    assert len({event["id"] for event in part["items"] + rest["items"]}) == 30


async def test_a_debit_is_explained(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    prepaid = await make_billed(facts, database_pool, billing_mode="prepaid")
    await prepaid.desk.settling.settle_all()
    entries = (await ask(client, prepaid, "credits/transactions", transaction_type="usage"))["items"]
    assert entries
    for entry in entries:
        for named in (entry["id"], entry["settlement_id"]):
            [debit] = (await ask(client, prepaid, f"explain/{named}"))["items"]
            assert (debit["kind"], debit["holds"]) == ("debit", True), debit["problems"]
        events = (await ask(client, prepaid, f"explained-events/{entry['settlement_id']}"))["items"]
        assert len(events) == debit["event_count"]


async def test_an_entry_of_the_ledger_that_is_no_usage_has_nothing_behind_it(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    entry = await database_pool.fetchval("SELECT transaction_id FROM add_user_credits($1::uuid, 5)", ada.user_id)
    for path in ("explain", "explained-events"):
        answer = await client.get(f"/api/v1/{path}/{entry}", headers=ada.headers)
        assert answer.status_code == 404, answer.text


async def test_what_does_not_agree_is_said(client: httpx.AsyncClient, billed: Billed, facts: Facts) -> None:
    await facts.pool.execute(
        "DELETE FROM usage_logs WHERE subscription_id = $1 AND request_tokens = 100", billed.customer.subscription_id
    )
    answer = await ask(client, billed, f"explain/{billed.number}/1")
    assert (answer["holds"], answer["items"][0]["holds"]) == (False, False)
    assert any("the events give" in problem for problem in answer["items"][0]["problems"])


async def test_documents_and_reasons_of_others_are_not_there(
    client: httpx.AsyncClient, billed: Billed, facts: Facts
) -> None:
    other, finance = await facts.customer(), await facts.customer("finance")
    line: UUID = await facts.pool.fetchval(
        "SELECT l.id FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id WHERE i.number = $1 LIMIT 1",
        billed.number,
    )
    summary = f"{billed.customer.subscription_id}/day/2026-10-14/{MODEL}"
    paths = [f"invoices/{billed.number}", f"invoices/{billed.number}/pdf", f"invoices/current?user_id={billed.customer.user_id}",
             f"explain/{billed.number}", f"explain/{billed.number}/1", f"explain/{line}", f"explain/{summary}", f"explained-events/{summary}",
             f"explained-events/{billed.number}/1", f"invoices?user_id={billed.customer.user_id}"]  # fmt: skip
    for path in paths:
        answer = await client.get(f"/api/v1/{path}", headers=other.headers)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:tallystick:problem:not-found"), path
        assert (await client.get(f"/api/v1/{path}", headers=finance.headers)).status_code == 200, path
    assert (await ask(client, other, "invoices"))["items"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("explain/INV-1999-000001", 404),
        ("explain/INV-2026-000001/999999999999999", 404),
        ("explain/nonsense", 404),
        ("explain/a%00b", 422),
        ("explain/00000000-0000-0000-0000-000000000000", 404),
        ("explain/00000000-0000-0000-0000-000000000000/month/9999-12/x", 404),
        ("explain/00000000-0000-0000-0000-000000000000/day/tomorrow", 404),
        ("invoices/a%00b", 422),
        ("invoices/INV-1999-000001/pdf", 404),
        ("invoices/INV-1999-000001/docx", 422),
        ("credit-notes/CN-1999-000001", 404),
    ],
)
async def test_what_is_not_there_or_no_name(client: httpx.AsyncClient, facts: Facts, path: str, status: int) -> None:
    ada = await facts.customer()
    answer = await client.get(f"/api/v1/{path}", headers=ada.headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_events_behind_a_whole_invoice_are_asked_for_by_line(client: httpx.AsyncClient, billed: Billed) -> None:
    answer = await client.get(f"/api/v1/explained-events/{billed.number}", headers=billed.headers)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "path.what")
