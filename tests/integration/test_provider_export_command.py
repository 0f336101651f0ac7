"""`tallystick reconcile --provider-export` on recorded usage."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from services.cli.main import run
from shared.postgres import Pool
from tests.integration.billing_facts import Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """14 October: 3 successes, a failure, and a call on the customer's own key, which the provider bills to the customer."""
    monkeypatch.setenv("DATABASE_URL", database)
    await make_price(database_pool)
    desk = Desk(database_pool)
    sub = (await make_customer(desk.pool)).subscription_id
    await desk.use(
        *(usage(sub, request_tokens=100, cached_tokens=10, response_tokens=5) for _ in range(3)),
        usage(sub, status_code=500),
        usage(sub, request_tokens=999, byok=True),
    )
    return desk


async def compare(file: Path, *arguments: str) -> int:
    return await asyncio.to_thread(run, ["reconcile", "--provider-export", str(file), *arguments])


def export(tmp_path: Path, *, output: int = 15) -> Path:
    file = tmp_path / "usage.csv"
    file.write_text(
        "date,model,requests,input_tokens,cached_input_tokens,output_tokens\n"
        f"2026-10-14,gpt-4o-2024-08-06,3,300,30,{output}\n"
    )
    return file


async def test_what_agrees_is_said_and_exits_with_0(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await compare(export(tmp_path)) == 0
    assert "both agree" in capsys.readouterr().out


async def test_what_differs_is_shown_with_where_and_how_much(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await compare(export(tmp_path, output=20)) == 1
    said = capsys.readouterr().out
    for part in ("2026-10-14", "gpt-4o", "output tokens", "20", "15", "-5", "25.00%"):
        assert part in said
    assert await compare(export(tmp_path, output=20), "--json") == 1
    (difference,) = json.loads(capsys.readouterr().out)["differences"]
    assert (difference["theirs"], difference["ours"]) == (20, 15)
    assert await compare(export(tmp_path, output=20), "--tolerance", "25%") == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tolerance", "much"), "--tolerance is 'much'"),
        (("--model", "gpt-4o"), "--model gpt-4o: write THEIRS=OURS"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(
    desk: Desk, tmp_path: Path, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert await compare(export(tmp_path), *arguments) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
