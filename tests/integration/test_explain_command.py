"""`tallystick explain` as finance runs it."""

from __future__ import annotations

import asyncio
import csv
import json

import pytest

from services.cli.main import run
from shared.postgres import Pool
from tests.integration.billing_facts import Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("DATABASE_URL", database)
    await make_price(database_pool)
    return Desk(database_pool)


async def explain(*arguments: str) -> int:
    """Run the command beside the test's own event loop."""
    return await asyncio.to_thread(run, ["explain", *arguments])


@pytest.fixture
async def number(desk: Desk, capsys: pytest.CaptureFixture[str]) -> str:
    """Invoice some usage; return the invoice's number."""
    customer = await make_customer(desk.pool)
    await desk.use(*(usage(customer.subscription_id, request_tokens=100 + n, response_tokens=7) for n in range(30)))
    (issued,) = (await desk.close()).invoices
    capsys.readouterr()  # what billing logged
    return issued.number


async def test_a_line_is_shown_with_price_formula_offsets_and_events(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await explain(f"{number}/1") == 0
    said = capsys.readouterr().out
    for part in (
        "30 events give",
        "formula:",
        "revision 0",
        "usage.events[0], offsets 0 to 30",
        "the first 20 of 30",
        "exactly this",
    ):
        assert part in said


async def test_all_lines_of_an_invoice_and_each_by_its_id_as_json(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await explain(number, "--json", "--events", "3") == 0
    documents = json.loads(capsys.readouterr().out)
    assert [(d["holds"], d["stated"] == d["recomputed"], len(d["events"])) for d in documents] == [(True, True, 3)] * 2
    assert await explain(documents[1]["id"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["title"] == documents[1]["title"]


async def test_every_event_as_csv(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await explain(f"{number}/1", "--csv") == 0
    said = capsys.readouterr()
    rows = list(csv.DictReader(said.out.splitlines()))
    assert sum(int(row["sign"]) * int(row["request_tokens"]) for row in rows) == sum(range(100, 130))
    assert "exactly this" in said.err


async def test_what_does_not_agree_is_said_loudly_and_by_the_exit_code(
    desk: Desk, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await desk.pool.execute("DELETE FROM usage_logs WHERE request_tokens = 100")
    assert await explain(f"{number}/1") == 1
    assert "DOES NOT AGREE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("INV-2026-000009/1", "there is no invoice INV-2026-000009 with a line 1"),
        ("019a2f6e-0000-7000-8000-000000000001", "there is no settlement"),
        ("the big one", "names nothing that can be explained"),
        ("019a2f6e-0000-7000-8000-000000000001/day/yesterday", "names no summary"),
    ],
)
async def test_what_is_not_there_is_said_in_one_line(
    desk: Desk, what: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await explain(what) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
