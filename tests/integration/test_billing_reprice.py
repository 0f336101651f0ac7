"""Changes of prices: in force at once for everybody, and for usage of the past too when a price turns out to have been wrong."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.billing.rating.price_file import NewPrice, PriceRefused
from services.billing.reprice import Applied, Preview, apply, preview
from services.billing.reprice.reprice import RepriceRefused
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import NOON, NOVEMBER, OCTOBER, Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    return Desk(database_pool)


async def test_a_price_is_in_force_for_the_next_message_without_a_wait(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    price = await make_price(desk.pool, per_1k=("1", "1", "1"))
    await desk.use(usage(customer.subscription_id, request_tokens=1000))
    await desk.pool.execute(
        """INSERT INTO model_prices (model_id, valid_from, currency, input_price_per_1k, revision)
           SELECT model_id, valid_from, currency, 3, 1 FROM model_prices WHERE id = $1""",
        price,
    )
    await desk.use(usage(customer.subscription_id, request_tokens=1000))
    assert [r["amount"] for r in await desk.fetch("SELECT amount FROM rated_usage ORDER BY rated_at")] == [1, 3]


async def test_a_change_of_prices_waits_for_usage_that_is_being_rated_by_the_old_ones(desk: Desk) -> None:
    """Else a reprice that follows the change could look for what the old price rated before all of it is there."""
    await make_price(desk.pool)  # turn_price_book is the trigger that the change waits in
    before = await desk.value("SELECT version FROM price_book")
    async with transaction(desk.billing) as rating:
        await desk.prices.read(rating)
        change = asyncio.ensure_future(desk.pool.execute("UPDATE power_level_configs SET cost_multiplier = 2"))
        while not await desk.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not change.done()
    await change
    assert await desk.value("SELECT version FROM price_book") == before + 1
    async with transaction(desk.billing) as rating:
        book = await desk.prices.read(rating)
    assert book.factors.power_levels["eco"] == Decimal(2)


def wanted(per_1k: str, *, model: str = "gpt-4o", **more: Any) -> NewPrice:
    return NewPrice("model", model, "USD", Decimal(per_1k), Decimal(per_1k), **more)


async def correct(desk: Desk, *prices: NewPrice, period: Period = OCTOBER) -> Applied:
    async with desk.pool.acquire() as connection:
        return await apply(connection, period, prices, why="the list was wrong", by="finance")


async def look(desk: Desk, *prices: NewPrice, period: Period = OCTOBER) -> Preview:
    async with desk.pool.acquire() as connection:
        return await preview(connection, period, prices)


async def test_a_preview_says_what_each_line_would_come_to_and_changes_nothing(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    await make_price(desk.pool, model="gpt-4o-mini", per_1k=("1", "1", "1"))
    sub = customer.subscription_id
    await desk.use(
        usage(sub, request_tokens=1000),
        usage(sub, request_tokens=2000, at=NOON + timedelta(hours=5)),
        usage(sub, request_tokens=1000, power_level="eco"),
        usage(sub, request_tokens=1000, model="gpt-4o-mini"),
    )
    before = await desk.fetch("SELECT * FROM rated_usage ORDER BY 1, 2, 3")
    seen = await look(desk, wanted("3"))
    assert [(c.power_level, c.events, c.before, c.after, c.difference) for c in seen.changes] == [
        ("balanced", 2, 3, 9, 6),
        ("eco", 1, Decimal("0.7"), Decimal("2.1"), Decimal("1.4")),
    ]
    assert before == await desk.fetch("SELECT * FROM rated_usage ORDER BY 1, 2, 3")
    assert await desk.value("SELECT count(*) FROM model_prices") == 2


async def test_an_issued_invoice_stays_and_the_next_one_has_the_difference(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    await desk.use(usage(customer.subscription_id, request_tokens=5000))
    closed = await desk.close()
    done = await correct(desk, wanted("3"))
    assert (done.rows, [c.difference for c in done.changes]) == (2, [Decimal(10)])
    assert await desk.differing() == []

    desk.clock.at = datetime(2026, 12, 3, tzinfo=UTC)
    (adjusted,) = (await desk.close(NOVEMBER)).invoices
    assert [closed.invoices[0].total, adjusted.total] == [5, 10]
    lines = await desk.fetch(
        "SELECT kind, amount FROM invoice_lines WHERE invoice_id = $1 ORDER BY amount", adjusted.id
    )
    assert [tuple(line) for line in lines] == [("adjustment", -5), ("adjustment", 15)]
    assert await desk.differing() == []


async def test_usage_that_comes_late_is_rated_by_the_corrected_price(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    await correct(desk, wanted("3"))
    november = NOON + timedelta(days=31)
    await desk.use(
        usage(customer.subscription_id, request_tokens=1000),
        usage(customer.subscription_id, request_tokens=1000, at=november),
    )
    assert [r["amount"] for r in await desk.fetch("SELECT amount FROM rated_usage ORDER BY hour")] == [3, 1]


async def test_only_the_hours_of_the_period_are_corrected(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    hours = [NOON + timedelta(hours=h) for h in range(-1, 3)]
    await desk.use(*(usage(customer.subscription_id, request_tokens=1000, at=at) for at in hours))
    await correct(desk, wanted("3"), period=Period(hours[1], hours[3]))
    rows = await desk.fetch("SELECT sum(amount) AS amount FROM rated_usage GROUP BY hour ORDER BY hour")
    assert [row["amount"] for row in rows] == [1, 3, 3, 1]


async def test_a_second_correction_starts_from_the_first(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    await desk.use(usage(customer.subscription_id, request_tokens=1000))
    await correct(desk, wanted("3"))
    done = await correct(desk, wanted("2"))
    assert [[c.before, c.after] for c in done.changes] == [[3, 2]]
    back = await correct(desk, wanted("1"))
    assert [[c.before, c.after] for c in back.changes] == [[2, 1]]
    assert await desk.value("SELECT sum(amount) FROM rated_usage") == 1
    assert await desk.value("SELECT sum(requests) FROM rated_usage") == 1
    assert await desk.differing() == []


async def test_a_reprice_that_was_interrupted_is_finished_by_the_same_command(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.billing.reprice.reprice.ROWS_AT_ONCE", 1)
    await make_price(desk.pool, per_1k=("1", "1", "1"))
    customers = [await make_customer(desk.pool) for _ in range(3)]
    await desk.use(*(usage(c.subscription_id, request_tokens=1000) for c in customers))

    def interrupt(done: int, _every: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    async with desk.pool.acquire() as connection:
        with pytest.raises(KeyboardInterrupt):
            await apply(connection, OCTOBER, [wanted("3")], why="…", by="finance", progress=interrupt)
    assert await desk.value("SELECT sum(amount) FROM rated_usage") == 7

    done = await correct(desk, wanted("3"))
    assert (len(done.changes), done.new_prices) == (1, [])
    assert await desk.value("SELECT sum(amount) FROM rated_usage") == 9
    assert (await correct(desk, wanted("3"))).id is None


async def test_two_reprices_at_once_are_refused(desk: Desk) -> None:
    await make_price(desk.pool)
    async with desk.pool.acquire() as other:
        await other.execute("SELECT pg_advisory_lock(hashtextextended('tallystick.reprice', 0))")
        with pytest.raises(RepriceRefused, match="another reprice"):
            await correct(desk, wanted("3"))
        await other.execute("SELECT pg_advisory_unlock_all()")


@pytest.mark.parametrize(
    ("price", "period", "complaint"),
    [
        (wanted("3", model="no-such-model"), OCTOBER, "no model no-such-model"),
        (wanted("3"), Period(NOON, NOON + timedelta(minutes=30)), "whole UTC hours"),
        (wanted("3", valid_from=NOON + timedelta(days=60)), OCTOBER, "outside"),
    ],
)
async def test_what_cannot_be_applied_is_refused_and_nothing_changes(
    desk: Desk, price: NewPrice, period: Period, complaint: str
) -> None:
    await make_price(desk.pool)
    with pytest.raises((RepriceRefused, PriceRefused), match=complaint):
        await correct(desk, price, period=period)
    assert await desk.value("SELECT count(*) FROM model_prices") == 1
    assert await desk.value("SELECT count(*) FROM reprices") == 0


MODELS = ("gpt-4o", "gpt-4o-mini")
used = st.tuples(st.sampled_from(MODELS), st.integers(0, 5), st.integers(0, 3000), st.sampled_from(["eco", "balanced"]))
price_change = st.tuples(st.sampled_from(MODELS), st.integers(0, 4), st.integers(1, 5), st.integers(0, 3))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.lists(used, min_size=1, max_size=4), price_change), min_size=1, max_size=6))
async def test_law_after_any_history_everything_is_worth_what_the_last_prices_say(
    desk: Desk, history: list[Any]
) -> None:
    """Usage and corrections in any order: the sum is that of rating all usage by the prices that stand last; applying again is nothing."""
    customer = await make_customer(desk.pool)
    names = {model: f"{model}-{uuid7()}" for model in MODELS}  # the database is the same for every history
    prices = {(model, hour): Decimal(1) for model in MODELS for hour in range(6)}
    factors = {"eco": Decimal("0.7"), "balanced": Decimal(1)}
    for model in MODELS:
        await make_price(desk.pool, model=names[model], per_1k=("1", "1", "1"))
    facts: list[tuple[str, int, int, str]] = []
    for step in history:
        if isinstance(step, list):
            facts += step
            await desk.use(
                *(
                    usage(
                        customer.subscription_id,
                        model=names[model],
                        at=NOON + timedelta(hours=hour),
                        request_tokens=tokens,
                        power_level=level,
                    )
                    for model, hour, tokens, level in step
                )
            )
            continue
        model, first, hours, each = step
        period = Period(NOON + timedelta(hours=first), NOON + timedelta(hours=first + hours))
        new = wanted(str(each), model=names[model])
        await correct(desk, new, period=period)
        prices.update({(model, hour): Decimal(each) for hour in range(first, min(first + hours, 6))})
        seen = await look(desk, new, period=period)
        assert (seen.changes, seen.new_prices) == ([], [])
    expected = sum(
        (Decimal(tokens) / 1000 * prices[model, hour] * factors[level] for model, hour, tokens, level in facts),
        Decimal(0),
    )
    (found,) = await desk.fetch(
        "SELECT coalesce(sum(amount), 0) AS amount, coalesce(sum(requests), 0) AS requests FROM rated_usage WHERE user_id = $1",
        customer.user_id,
    )
    assert (found["amount"], found["requests"]) == (expected, len(facts))
