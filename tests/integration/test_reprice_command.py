"""`tallystick reprice` as a person runs it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from services.cli.main import run
from shared.postgres import Pool
from tests.integration.billing_facts import Desk, make_customer, make_price, usage

PERIOD = ("--from", "2026-10-01", "--to", "2026-11-01")


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    return Desk(database_pool)


@pytest.fixture
def prices(tmp_path: Path) -> str:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps([{"model": "gpt-4o", "currency": "USD", "input_per_1k": "3"}]))
    return str(file)


async def tallystick(*arguments: str) -> int:
    """Run a command beside the test's own event loop."""
    return await asyncio.to_thread(run, ["reprice", *arguments])


@pytest.fixture(autouse=True)
def _database(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database)


async def test_it_shows_applies_and_then_has_nothing_to_do(
    desk: Desk, prices: str, capsys: pytest.CaptureFixture[str]
) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    await desk.use(usage(customer.subscription_id, request_tokens=5000))

    assert await tallystick(*PERIOD, "--prices", prices, "--dry-run") == 0
    assert "USD: 5 before, 15 after, +10" in capsys.readouterr().out
    assert await desk.value("SELECT sum(amount) FROM rated_usage") == 5

    apply = (*PERIOD, "--prices", prices, "--why", "the list was wrong", "--by", "finance", "--yes")
    assert await tallystick(*apply, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["applied"], document["rows_written"], len(document["new_prices"])) == (True, 2, 1)
    assert document["totals"] == {"USD": {"before": "5", "after": "15"}}
    assert await desk.value("SELECT sum(amount) FROM rated_usage") == 15
    assert [tuple(row) for row in await desk.fetch("SELECT why, applied_by FROM reprices")] == [
        ("the list was wrong", "finance")
    ]

    assert await tallystick(*apply) == 0
    assert "nothing would change" in capsys.readouterr().out
    assert await desk.value("SELECT count(*) FROM reprices") == 1


async def test_every_line_as_csv(desk: Desk, prices: str, capsys: pytest.CaptureFixture[str]) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    await desk.use(usage(customer.subscription_id, request_tokens=5000))
    assert await tallystick(*PERIOD, "--prices", prices, "--dry-run", "--csv") == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.startswith("user_id,subscription_id,subject")
    assert line == f"{customer.user_id},{customer.subscription_id},gpt-4o,balanced,False,postpaid,USD,1,5,15,10"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--from", "2026-10-01", "--to", "2026-11-01"), "--why is empty"),
        (("--from", "2026-11-01", "--to", "2026-10-01", "--dry-run"), "--from and --to"),
        (("--from", "October", "--to", "2026-11-01", "--dry-run"), "--from is 'October'"),
        (("--from", "2026-10-01T10:30Z", "--to", "2026-11-01", "--dry-run"), "whole UTC hours"),
        ((*PERIOD, "--dry-run", "--json", "--csv"), "exclude each other"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(
    prices: str, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await tallystick(*arguments, "--prices", prices) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
