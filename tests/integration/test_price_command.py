"""`tallystick price` on a real database: prices are set whole or refused with the reason, and never change what was rated."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.billing.rating.desk.new_prices import SetPrice, end_price, insert_price, price_of_new, set_prices
from services.billing.rating.held import rate_held
from services.billing.rating.price_file import NewPrice, PriceRefused
from services.billing.rating.store import read_prices
from services.cli.main import run
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.billing_facts import NOON, Desk, make_customer, make_price, usage

NOW = datetime(2026, 11, 3, 9, 20, tzinfo=UTC)
NEXT = datetime(2026, 11, 3, 10, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    desk = Desk(database_pool)
    await make_customer(desk.pool)
    return desk


def gpt(**fields: object) -> NewPrice:
    return NewPrice(**{"kind": "model", "subject": "gpt-4o", "currency": "USD", "input_per_1k": Decimal(2), **fields})  # type: ignore[arg-type]


async def put(desk: Desk, *wanted: NewPrice, replace: bool = False) -> list[SetPrice]:
    async with desk.pool.acquire() as connection, connection.transaction():
        return await set_prices(connection, wanted, now=NOW, replace=replace)


async def test_a_price_begins_with_the_next_hour_and_cached_input_costs_as_input(desk: Desk) -> None:
    await make_price(desk.pool, valid_to=datetime(2026, 2, 1, tzinfo=UTC))
    (done,) = await put(desk, gpt(cost_input_per_1k=Decimal("0.0015")))
    assert (done.price.valid_from, done.price.valid_to, done.price.cached_input_per_1k) == (NEXT, None, Decimal(2))
    async with desk.pool.acquire() as connection:
        (stored,) = [p for p in await read_prices(connection, "model", "gpt-4o", "USD") if p.id == done.price.id]
    assert stored == done.price
    assert (
        await desk.value("SELECT details ->> 'what' FROM audit_logs WHERE action = 'price.set'")
        == "model gpt-4o in USD"
    )


async def test_replacing_ends_the_open_version_when_the_new_one_begins(desk: Desk) -> None:
    old = await make_price(desk.pool)
    with pytest.raises(PriceRefused, match=r"has a price in USD at that time .* repeat with --replace"):
        await put(desk, gpt(valid_from=LATER))
    (done,) = await put(desk, gpt(valid_from=LATER), replace=True)
    assert done.replaced == old
    assert await desk.value("SELECT valid_to FROM model_prices WHERE id = $1", old) == LATER


async def test_all_prices_of_a_file_are_set_or_none(desk: Desk) -> None:
    await make_price(desk.pool)
    with pytest.raises(PriceRefused, match="there is no model unheard-of"):
        await put(desk, gpt(valid_from=LATER), gpt(subject="unheard-of"), replace=True)
    assert await desk.value("SELECT count(*) FROM model_prices WHERE valid_to IS NULL") == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"valid_from": NOON}, "correct the past with 'tallystick reprice'"),
        ({"currency": "GBP"}, "nobody is billed in GBP"),
        ({"subject": "gpt-9"}, "there is no model gpt-9"),
    ],
)
async def test_what_cannot_be_is_refused(desk: Desk, fields: dict[str, object], reason: str) -> None:
    await make_price(desk.pool)
    with pytest.raises(PriceRefused, match=reason):
        await put(desk, gpt(**fields), replace=True)
    assert await desk.value("SELECT count(*) FROM model_prices") == 1


async def test_a_price_of_the_past_is_taken_where_there_was_none_and_rates_what_waited(desk: Desk) -> None:
    await make_price(desk.pool, valid_to=datetime(2026, 10, 1, tzinfo=UTC))
    subscription = await desk.value("SELECT id FROM subscriptions")
    await desk.use(usage(subscription, request_tokens=500))
    await put(desk, gpt(valid_from=datetime(2026, 10, 1, tzinfo=UTC)))
    assert await rate_held(desk.billing, desk.prices) == 1
    assert await desk.value("SELECT amount FROM rated_usage") == 1


async def test_a_price_ends_at_an_hour_to_come(desk: Desk) -> None:
    old = await make_price(desk.pool, valid_to=LATER)
    await make_price(desk.pool, valid_from=LATER + timedelta(days=1))
    async with desk.pool.acquire() as connection:
        for at, reason in ((NOON, "is past"), (LATER + timedelta(days=2), "cannot last that long")):
            with pytest.raises(PriceRefused, match=reason):
                await end_price(connection, old, at, now=NOW)
        with pytest.raises(PriceRefused, match="there is no price"):
            await end_price(connection, uuid7(), LATER, now=NOW)
        await end_price(connection, old, NEXT, now=NOW)
    assert await desk.value("SELECT valid_to FROM model_prices WHERE id = $1", old) == NEXT


@pytest.mark.parametrize(("unit", "expected"), [("second", "2.3045"), ("returned_token", "0.006")])
async def test_usage_is_rated_by_the_unit_of_its_price_and_voids_take_exactly_that_back(
    desk: Desk, unit: str, expected: str
) -> None:
    price = price_of_new(
        NewPrice("tool", "transcribe", "USD", unit=unit, per_unit=Decimal("0.0005")),
        price_id=uuid7(), valid_from=datetime(2026, 1, 1, tzinfo=UTC), valid_to=None,
    )  # fmt: skip
    async with desk.pool.acquire() as connection:
        await insert_price(connection, price)
    subscription = await desk.value("SELECT id FROM subscriptions")
    call: dict[str, Any] = {"model": None, "tool_name": "transcribe", "latency_ms": 4_609_000, "tokens_returned": 12}
    await desk.use(usage(subscription, **call))
    row = (await desk.fetch("SELECT amount, latency_ms, tokens_returned FROM rated_usage"))[0]
    assert tuple(row) == (Decimal(expected), 4_609_000, 12)
    closing = await desk.close()
    line = (await desk.fetch("SELECT component, quantity * unit_price AS amount FROM invoice_lines"))[0]
    assert (closing.failures, line["component"], line["amount"]) == ([], "units", Decimal(expected))
    assert await desk.differing() == []


async def test_the_command_reads_a_file_and_says_what_is_wrong(
    desk: Desk, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    await make_price(desk.pool)
    path = tmp_path / "prices.csv"
    path.write_text("tool,currency,per_request\nquery-docs,USD,0.002\nresolve,USD,0.0005\n")
    assert await asyncio.to_thread(run, ["price", "set", "--file", str(path), "--by", "ada"]) == 0
    assert (
        await desk.value("SELECT string_agg(DISTINCT created_by, ',') FROM model_prices WHERE tool_name IS NOT NULL")
        == "ada"
    )
    assert "query-docs  USD  request 0.002" in capsys.readouterr().out
    assert (
        await asyncio.to_thread(run, ["price", "set", "--model", "gpt-4o", "--currency", "USD", "--input", "0.1e-20"])
        == 2
    )
    assert "more than 18 digits after the point" in capsys.readouterr().err
    backwards = ["--from", "2099-02-01", "--to", "2099-01-01", "--replace"]
    wanted = ["price", "set", "--model", "gpt-4o", "--currency", "USD", "--input", "1", *backwards]
    assert await asyncio.to_thread(run, wanted) == 2
    assert "would end 2099-01-01 00:00, before it begins 2099-02-01 00:00" in capsys.readouterr().err
    assert await asyncio.to_thread(run, ["price", "list", "--all", "--json"]) == 0
    assert capsys.readouterr().out.count('"id"') == 3


async def test_litellms_cost_map_sets_what_differs_and_a_second_time_nothing(
    desk: Desk, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    old = await make_price(desk.pool)
    path = tmp_path / "costs.json"
    path.write_text(
        """{"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05},
            "acme/tiny": {"litellm_provider": "acme", "mode": "chat", "max_tokens": 4096, "input_cost_per_token": 1e-07},
            "pictures": {"litellm_provider": "openai", "output_cost_per_image": 0.04}}"""
    )
    command = ["price", "import-litellm", str(path), "--markup", "20", "--from", "2036-01-01", "--by", "ada"]
    assert await asyncio.to_thread(run, [*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 prices from 2036-01-01 00:00 UTC on, 0 unchanged, 1 skipped, 1 new model; nothing is changed" in said
    assert "skipped pictures: it has no cost per token or request" in said
    assert await desk.value("SELECT count(*) FROM model_prices") == 1
    assert await asyncio.to_thread(run, command) == 0
    assert "instead of model gpt-4o  USD" in capsys.readouterr().out
    prices = "SELECT model_id, input_price_per_1k, cost_input_price_per_1k FROM model_prices WHERE id <> $1 ORDER BY 1"
    rows = await desk.fetch(prices, old)
    assert [tuple(row) for row in rows] == [
        ("acme/tiny", Decimal("0.00012"), Decimal("0.0001")),
        ("gpt-4o", Decimal("0.003"), Decimal("0.0025")),
    ]
    assert await desk.value("SELECT valid_to FROM model_prices WHERE id = $1", old) == datetime(2036, 1, 1, tzinfo=UTC)
    assert await desk.value("SELECT provider FROM models WHERE id = 'acme/tiny'") == "acme"
    assert await asyncio.to_thread(run, command) == 0
    assert "0 prices from 2036-01-01 00:00 UTC on, 2 unchanged" in capsys.readouterr().out
    assert await asyncio.to_thread(run, ["price", "import-litellm", str(path), "--provider", "nobody"]) == 2
    assert "the map has no model of nobody" in capsys.readouterr().err
