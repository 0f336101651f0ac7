"""`tallystick export` as finance runs it: FOCUS rows and the journal of a month with invoices, a credit note and payments."""

from __future__ import annotations

import asyncio
import csv
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet
import pytest

from services.billing.invoices.corrections import credit_note
from services.cli.main import run
from shared.clock import FixedClock
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """October: three customers with usage, one of whom is given a part back."""
    monkeypatch.setenv("DATABASE_URL", database)
    await make_price(database_pool)
    desk = Desk(database_pool, clock=FixedClock(datetime(2026, 11, 3, tzinfo=UTC)))
    customers = [await make_customer(desk.pool) for _ in range(3)]
    await desk.use(*(usage(c.subscription_id, request_tokens=1_234_567, response_tokens=77_777) for c in customers))
    invoices = (await desk.close()).invoices
    async with transaction(desk.billing) as connection:
        await credit_note(
            connection, invoices[0].id, {1: Decimal("0.50")}, reason="goodwill", at=desk.clock.now(), actor="finance"
        )
    return desk


async def export(*arguments: str) -> int:
    """Run the command beside the test's own event loop."""
    return await asyncio.to_thread(run, ["export", *arguments])


async def test_focus_rows_sum_to_each_document(desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "focus.csv"
    assert await export("focus", "--period", "2026-10", "--to", str(file)) == 0
    assert f"rows written to {file}" in capsys.readouterr().err
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in csv.DictReader((await asyncio.to_thread(file.read_text)).splitlines()):
        sums[row["InvoiceId"]] += Decimal(row["BilledCost"])
    billed = {row["number"]: row["total"] for row in await desk.fetch("SELECT number, total FROM invoices")}
    credited = {row["number"]: -row["total"] for row in await desk.fetch("SELECT number, total FROM credit_notes")}
    assert sums == billed | credited
    assert len(credited) == 1


async def test_parquet_says_the_same_as_csv(desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "focus.parquet"
    assert await export("focus", "--period", "2026-10", "--format", "parquet", "--to", str(file)) == 0
    capsys.readouterr()
    assert await export("focus", "--period", "2026-10") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    table = pyarrow.parquet.read_table(file).to_pylist()
    assert [Decimal(row["BilledCost"]) for row in rows] == [row["BilledCost"] for row in table]
    assert [row["ChargeDescription"] for row in rows] == [row["ChargeDescription"] for row in table]


async def test_the_journal_balances_and_has_every_document(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert await export("journal", "--period", "2026-11", "--account", "receivables=10000") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        sums[row["document"]] += Decimal(row["debit"] or 0) - Decimal(row["credit"] or 0)
    assert set(sums.values()) == {Decimal(0)}
    documents = await desk.fetch("SELECT number FROM invoices UNION SELECT number FROM credit_notes")
    assert set(sums) == {row["number"] for row in documents}
    owed = sum(
        (Decimal(r["debit"] or 0) - Decimal(r["credit"] or 0) for r in rows if r["account"] == "10000"), Decimal(0)
    )
    assert owed == await desk.value("SELECT sum(total - amount_credited) FROM invoices")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("focus", "--period", "October"), "--period: 'October' is not a month"),
        (("focus", "--period", "2026-10", "--format", "parquet"), "Parquet is no text"),
        (("journal", "--period", "2026-10", "--account", "cash=1000"), "--account cash=1000: write NAME=NUMBER"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    assert await export(*arguments) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
