"""`tallystick partitions` as a person meets it: what it prints, and with which code it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from services.cli import main
from shared.period import Period
from shared.postgres import Pool
from tests.integration.billing_facts import NOON, Desk, make_customer, make_price, usage

Command = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def tallystick(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on this test's database; return its exit code, stdout and stderr."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main.run, ["partitions", *arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
async def old_usage(database_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """A subscription with usage long ago, of which nothing is left to bill."""
    desk = Desk(database_pool)
    async with database_pool.acquire() as connection:
        customer = await make_customer(connection)
        await make_price(connection, valid_from=datetime(2024, 1, 1, tzinfo=UTC))
    times = [NOON.replace(year=2024, month=month) for month in (1, 2)]
    await desk.use(*(usage(customer.subscription_id, at=at, request_tokens=100_000) for at in times))
    for at in times:
        await desk.close(Period.month_of(at))
    await database_pool.execute("UPDATE invoices SET status = 'paid', paid_date = now()")
    return customer.subscription_id


async def test_months_are_archived_listed_and_restored(old_usage: UUID, tallystick: Command, tmp_path: Path) -> None:
    archive = ["archive", "--before", "2024-02", "--directory", str(tmp_path)]
    code, _, err = await tallystick(*archive)
    assert (code, err) == (
        2,
        "tallystick: archiving drops 2024-01 from the database: repeat with --yes if that is meant\n",
    )
    code, out, err = await tallystick(*archive, "--yes")
    assert (code, err) == (0, "")
    assert out.startswith("2024-01: 1 events, ")
    _, out, _ = await tallystick("list")
    january, february = (line for line in out.splitlines() if line.startswith("2024"))
    assert january.split()[:3] == ["2024-01", "archived", "1"]
    assert february.split()[:2] == ["2024-02", "attached"]
    assert (await tallystick(*archive, "--yes"))[:2] == (0, "no month before 2024-02 is in usage_logs\n")
    for said in ("are back in usage_logs", "were there already"):
        assert await tallystick("restore", str(tmp_path / "usage_logs_2024_01.parquet")) == (
            0,
            f"2024-01: 1 events {said}\n",
            "",
        )


async def test_a_held_month_stays_and_the_others_go(old_usage: UUID, tallystick: Command, tmp_path: Path) -> None:
    _, out, _ = await tallystick("hold", "--from", "2023-12", "--to", "2024-01", "--why", "court order 7")
    hold = out.split()[1]
    code, out, err = await tallystick("archive", "--before", "2024-03", "--directory", str(tmp_path), "--yes")
    assert (code, err) == (2, f"tallystick: usage of 2024-01 stays: legal hold {hold}: court order 7\n")
    assert out.startswith("2024-02: 1 events, ")
    assert (await tallystick("release", hold, "--why", "settled"))[0] == 0
    assert (await tallystick("archive", "--before", "2024-03", "--directory", str(tmp_path), "--yes"))[0] == 0


async def test_a_month_whose_summaries_differ_stays(
    database_pool: Pool, old_usage: UUID, tallystick: Command, tmp_path: Path
) -> None:
    await database_pool.execute("UPDATE usage_summaries SET request_tokens = 9 WHERE period_type = 'day'")
    code, _, err = await tallystick("archive", "--before", "2024-02", "--directory", str(tmp_path), "--yes")
    assert code == 2
    assert "run 'tallystick rebuild --from 2024-01-01 --to 2024-02-01 --apply' first" in err


async def test_a_month_that_was_not_rated_as_it_is_logged_stays(
    database_pool: Pool, old_usage: UUID, tallystick: Command, tmp_path: Path
) -> None:
    await database_pool.execute(
        "ALTER TABLE rated_usage DISABLE TRIGGER USER; DELETE FROM rated_usage WHERE hour < '2024-02-01Z'"
    )
    code, out, err = await tallystick("archive", "--before", "2024-03", "--directory", str(tmp_path), "--yes")
    assert (code, out.count("events")) == (2, 1)
    assert (
        err
        == "tallystick: usage of 2024-01 stays: what was rated is not what it says; see 'tallystick verify --from 2024-01-01 --to 2024-02-01'\n"
    )


async def test_coming_months_are_made(tallystick: Command) -> None:
    code, out, _ = await tallystick("ensure", "--months", "2")
    assert code == 0
    assert out.count("usage_logs_") == 3
    assert (await tallystick("ensure"))[1].count("usage_logs_") == 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["archive", "--before", "soon"], "'soon' is not a month; write it like 2026-11"),
        (["restore", "nowhere.parquet"], "there is no file nowhere.parquet"),
        (["hold", "--from", "2024-02", "--to", "2024-01", "--why", "x"], "the range ends (2024-01) before it begins (2024-02)"),
        (["hold", "--from", "2024-01", "--to", "2024-01", "--why", " "], "a hold needs a reason"),
        (["release", "01a1fca1-b16e-7099-a805-89aabbe90647", "--why", "x"], "there is no hold 01a1fca1-b16e-7099-a805-89aabbe90647"),
    ],
)  # fmt: skip
async def test_what_cannot_be_meant_is_one_line(tallystick: Command, arguments: list[str], line: str) -> None:
    code, out, err = await tallystick(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"tallystick: {line}")
    assert err.count("\n") == 1
