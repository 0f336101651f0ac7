"""Bank statements: each line once, matched by numbers, the rest kept for a person; and the commands for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.billing.payments.charging import start_checkout
from services.billing.payments.manual import ManualProvider
from services.billing.payments.recording import record_payment
from services.billing.payments.statement import StatementRefused
from services.billing.payments.statements import Imported, LineRefused, import_statement, match_line
from services.cli.main import run
from shared.postgres import Pool, transaction
from tests.integration.payment_facts import DUE, StripeDesk, Till, event, session_object, signed

HEADER = "booked_on,amount,currency,reference,counterparty,bank_id\n"


@pytest.fixture
def till(database_pool: Pool) -> Till:
    return Till(database_pool)


async def bring_in(till: Till, *lines: str, header: str = HEADER) -> Imported:
    async with till.billing.acquire() as connection:
        return await import_statement(
            connection,
            header + "".join(f"{line}\n" for line in lines),
            "november.csv",
            actor="ada",
            now=till.clock.now(),
        )


async def test_a_statement_pays_what_it_names_once(till: Till) -> None:
    one, two = await till.customer(card=False), await till.customer(card=False)
    first, second = await till.invoice(one, number="INV-2026-000001"), await till.invoice(two, number="INV-2026-000002")
    lines = (
        "2026-11-10,100.00,USD,Invoice INV 2026 000001,Ada,T1",
        "2026-11-11,40.00,USD,inv-2026-000002 part,Bob,T2",
        "2026-11-12,7.00,USD,for coffee,Cyd,T3",
        "2026-11-12,-9.00,USD,rent,Landlord,T4",
    )
    result = await bring_in(till, *lines)
    assert (len(result.matched), len(result.unmatched), result.ignored, result.known) == (2, 1, 1, 0)
    assert await till.state(first) == ("paid", 100)
    assert await till.state(second) == ("partially_paid", 40)
    again = await bring_in(till, *lines, "2026-11-13,60.00,USD,INV2026000002 rest,Bob,T5")
    assert (len(again.matched), again.known) == (1, 4)
    assert await till.state(second) == ("paid", 100)
    audit = "SELECT DISTINCT actor FROM audit_logs WHERE resource_type IN ('payment', 'statement_line')"
    assert await till.fetch(audit) == [("ada",)]


async def test_two_imports_side_by_side_count_once(till: Till) -> None:
    invoices = [await till.invoice(await till.customer(card=False), number=f"INV-2026-00000{n}") for n in range(4)]
    lines = [f"2026-11-10,50.00,USD,INV-2026-00000{n},x,T{n}" for n in range(4)]
    await asyncio.gather(bring_in(till, *lines), bring_in(till, *reversed(lines)))
    assert [await till.state(invoice) for invoice in invoices] == [("partially_paid", 50)] * 4


async def test_one_transfer_pays_several_invoices_oldest_first(till: Till) -> None:
    user = await till.customer(card=False)
    first, second = (
        await till.invoice(user, number="INV-2026-000001"),
        await till.invoice(user, number="INV-2026-000002"),
    )
    await bring_in(till, "2026-11-10,150.00,USD,INV-2026-000002 and INV-2026-000001,Ada,T1")
    assert (await till.state(first), await till.state(second)) == (("paid", 100), ("partially_paid", 50))


async def test_a_statement_is_imported_whole_or_not_at_all(till: Till) -> None:
    invoice = await till.invoice(await till.customer(card=False), number="INV-2026-000001")
    with pytest.raises(StatementRefused, match="line 3"):
        await bring_in(till, "2026-11-10,100.00,USD,INV-2026-000001,Ada,T1", "2026-11-10,1.005,USD,x,y,T2")
    assert await till.state(invoice) == ("sent", 0)
    assert await till.value("SELECT count(*) FROM bank_statement_lines") == 0


async def test_a_transfer_that_was_recorded_by_hand_is_not_counted_again(till: Till) -> None:
    invoice = await till.invoice(await till.customer(card=False), number="INV-2026-000001")
    async with transaction(till.billing) as connection:
        by_hand = await record_payment(
            connection, invoice, (await till.value("SELECT 100::numeric")), "USD", provider="manual", reference="seen online",
            paid_at=DUE, idempotency_key="k",
        )  # fmt: skip
    result = await bring_in(till, "2026-11-14,100.00,USD,INV-2026-000001,Ada,T1")
    ((_, why),) = result.unmatched
    assert f"payment {by_hand.payment.id} of the same amount was recorded by hand" in why
    line = await till.value("SELECT id FROM bank_statement_lines")
    async with till.billing.acquire() as connection:
        await match_line(connection, line, str(by_hand.payment.id), actor="ada", now=DUE)
        with pytest.raises(LineRefused, match="is matched already"):
            await match_line(connection, line, str(invoice), actor="ada", now=DUE)
    assert await till.state(invoice) == ("paid", 100)
    assert await till.value("SELECT count(*) FROM payments") == 1


async def test_a_package_is_bought_by_transfer(till: Till) -> None:
    user = await till.customer(card=False)
    till.providers.settings.payment_provider = "manual"
    till.providers.use(ManualProvider())
    page = await start_checkout(till.billing, till.providers, user, "starter pack", clock=till.clock, key="k")
    again = await start_checkout(till.billing, till.providers, user, "Starter Pack", clock=till.clock, key="k")
    assert (page.url, page.reference) == ("", again.reference)
    short = await bring_in(till, f"2026-11-10,9.00,USD,{page.reference},Ada,T1")
    assert "asks for 10 USD: this is 9 USD" in short.unmatched[0][1]
    await bring_in(till, f"2026-11-10,10.00,USD,credits {page.reference.lower().replace('-', ' ')},Ada,T2")
    assert await till.value("SELECT get_user_balance($1)", user) == 100


# --- the commands


class Shell:
    """Runs `tallystick` on the till's database, and remembers what it printed."""

    def __init__(self, till: Till, capsys: pytest.CaptureFixture[str]) -> None:
        self.till, self.capsys, self.errors = till, capsys, ""

    async def __call__(self, *words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, words)
        captured = self.capsys.readouterr()
        self.errors = captured.err
        return code, captured.out + captured.err

    async def json(self, *words: str) -> Any:
        code, text = await self(*words, "--json")
        assert code == 0, text
        return json.loads(text.removesuffix(self.errors))


@pytest.fixture
def shell(till: Till, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("DATABASE_URL", database)
    return Shell(till, capsys)


async def test_the_commands_of_a_bookkeeper(till: Till, shell: Shell, tmp_path: Path) -> None:
    user = await till.customer(card=False)
    await till.invoice(user, number="INV-2026-000001")
    statement = tmp_path / "november.csv"
    statement.write_text(
        HEADER + "2026-11-10,130.00,USD,INV-2026-000001,Ada,T1\n2026-11-10,5.00,USD,\x1b[31mhi,Bob,T2\n"
    )
    code, text = await shell("payments", "import-statement", str(statement), "--by", "ada")
    assert code == 0
    assert "2 lines: 1 matched, 1 not matched, 0 known already, 0 going out" in text
    found = await shell.json("payments", "unmatched")
    assert [(line["reference"], line["why"]) for line in found["lines"]] == [("\x1b[31mhi", "it names no invoice")]
    assert [over["left_over"] for over in found["left_over"]] == ["30.00"]
    _, text = await shell("payments", "unmatched")
    assert "\x1b" not in text, "what others wrote is shown without harm"
    await till.invoice(user, number="INV-2026-000002")
    matched = await shell.json("payments", "match", found["lines"][0]["id"], "INV-2026-000002", "--by", "ada")
    recorded = await shell.json(
        "payments", "record", "INV-2026-000002", "95", "usd", "--reference", "T9", "--by", "ada"
    )
    assert (matched["allocated"], recorded["invoice_status"]) == ("5.00", "paid")
    refunded = await shell.json(
        "payments", "refund", recorded["payment"], "20", "--why", "sorry", "--by", "ada", "--yes"
    )
    assert (refunded["refund"]["status"], refunded["left"]) == ("completed", "75")
    listed = await shell.json("payments", "list", "--invoice", "INV-2026-000002")
    assert sorted(row["amount"] for row in listed["payments"]) == ["5.00", "95"]
    assert await till.fetch("SELECT DISTINCT actor FROM audit_logs WHERE resource_type = 'refund'") == [("ada",)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("record", "INV-9", "1", "USD", "--reference", "x"), "there is no invoice 'INV-9'"),
        (("record", "INV-1", "1,5", "USD", "--reference", "x"), "'1,5' is not an amount"),
        (("record", "INV-1", "1.005", "USD", "--reference", "x"), "too many digits"),
        (("record", "INV-1", "1", "USD", "--reference", "x", "--provider", "cash"), "'cash' is no provider"),
        (("record", "INV-1", "1", "USD", "--reference", "x", "--paid-at", "2999-01-01"), "is in the future"),
        (("refund", str(UUID(int=7)), "--why", "x", "--yes"), "there is no payment"),
        (("refund", str(UUID(int=7)), "--why", " ", "--yes"), "--why is empty"),
        (("methods", "nobody@example.com"), "there is no user"),
        (("list", "--status", "lost"), "'lost' is no status"),
        (("list", "--invoice", "INV-9"), "there is no invoice 'INV-9'"),
        (("charge", "INV-1"), "has no payment method that can be charged"),
        (("match", str(UUID(int=7)), "INV-1"), "there is no line"),
    ],
)
async def test_what_the_commands_refuse(till: Till, shell: Shell, words: tuple[str, ...], message: str) -> None:
    await till.invoice(await till.customer(card=False), number="INV-1")
    code, text = await shell("payments", *words)
    assert (code, message in text) == (2, True), text
    assert len(text.splitlines()) == 1


async def test_a_webhook_is_taken_from_a_file(
    till: Till, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = StripeDesk(till)
    monkeypatch.setenv("TALLYSTICK_STRIPE_API_KEY", "sk_test_made_up")
    monkeypatch.setenv("TALLYSTICK_STRIPE_WEBHOOK_SECRET", desk.secret)
    body = event("checkout.session.completed", session_object("cs_1", UUID(int=7), "pi_1", 1000))
    (file := tmp_path / "event.json").write_bytes(body)
    words = ("payments", "receive-webhook", str(file), "--signature", signed(body, desk.secret)["Stripe-Signature"])
    assert (await shell.json(*words))["outcome"] == "waiting"
    assert (await shell.json(*words))["outcome"] == "duplicate"
    code, text = await shell(*words[:-1], signed(body, "whsec_other")["Stripe-Signature"])
    assert (code, "No signatures found matching" in text) == (2, True)
