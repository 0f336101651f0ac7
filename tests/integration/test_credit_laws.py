"""The laws of prepaid credits, on any history and under 64 callers at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.ids import uuid7
from shared.postgres import Pool, create_pool
from tests.integration.billing_facts import Customer, Desk, make_customer, make_price
from tests.integration.credit_model import Credits, obey_the_laws
from tests.integration.schema_facts import make_user, rate_usage

CALLERS = 64
AMOUNTS = st.integers(1, 4000).map(lambda n: Decimal(n) / 100)
STEPS = st.one_of(
    st.tuples(
        st.just("add"),
        st.sampled_from(["purchase", "bonus", "promotional", "allowance", "refund", "adjustment"]),
        AMOUNTS,
        st.sampled_from([None, None, 1, 100]),
        st.sampled_from([None, None, 1, 2, 5]),
    ),
    st.tuples(st.just("settle"), AMOUNTS),
    st.tuples(st.just("void"), AMOUNTS),
    st.tuples(st.just("debit"), AMOUNTS),
    st.tuples(st.just("take back"), AMOUNTS),
    st.tuples(st.just("wait"), st.integers(1, 3)),
    st.tuples(st.just("again")),
)


class History:
    """Does to the database what it does to the model."""

    def __init__(self, pool: Pool, user: UUID) -> None:
        self.pool, self.user, self.model = pool, user, Credits()
        self.settled = Decimal(0)
        self.last: tuple[Any, ...] | None = None

    async def step(self, kind: str, *arguments: Any) -> None:
        """Make one step."""
        match kind, arguments:
            case "wait", (days,):
                self.model.wait(days)
                await self.pool.execute(
                    "UPDATE credit_grants SET expires_at = expires_at - make_interval(days => $2) WHERE user_id = $1",
                    self.user,
                    days,
                )
            case "again", ():
                if self.last:
                    await self.pool.execute(*self.last)
                    self.model.expire()
            case "add", (kind_, amount, priority, days):
                await self._call(
                    """SELECT add_user_credits($1, $2, $3, idempotency_key => $4, priority => $5,
                                               expires_at => now() + make_interval(days => $6) - interval '1 hour')""",
                    amount, kind_, uuid7().hex, priority, days,
                )  # fmt: skip
                self.last = None  # its expiry is another one the next time
                self.model.add(kind_, amount, priority, days)
            case (("settle" | "void"), (amount,)):
                signed = amount if kind == "settle" else -amount
                await self._call("SELECT settle_user_credits($1, $2, $3)", signed, uuid7().hex)
                self.settled += signed
                self.model.settle(signed)
            case "debit", (amount,):
                done = await self._call("SELECT debit_user_credits($1, $2, idempotency_key => $3)", amount, uuid7().hex)
                assert self.model.debit(amount) == done
            case "take back", (amount,):
                done = await self._call(
                    "SELECT add_user_credits($1, $2, 'adjustment', idempotency_key => $3)", -amount, uuid7().hex
                )
                assert self.model.take_back(amount) == done

    async def _call(self, statement: str, *arguments: Any) -> bool:
        try:
            await self.pool.execute(statement, self.user, *arguments)
        except asyncpg.PostgresError as error:
            assert error.sqlstate == "TS001", error
            # What is refused leaves nothing behind, not even what expired: that is posted by the next that succeeds.
            await self.pool.execute("SELECT lock_credit_account($1)", self.user)
            return False
        self.last = (statement, self.user, *arguments)
        return True


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=15))
async def test_credits_and_their_model_agree_on_any_history(database_pool: Pool, steps: list[tuple[Any, ...]]) -> None:
    async with database_pool.acquire() as connection:
        history = History(database_pool, await make_user(connection))
    for step in steps:
        await history.step(*step)
        if step[0] in ("wait", "again"):
            continue
        grants = await database_pool.fetch(
            "SELECT sequence, remaining, used, withdrawn FROM credit_grants WHERE user_id = $1 ORDER BY sequence",
            history.user,
        )
        assert [tuple(row) for row in grants] == history.model.facts, step
        row = await obey_the_laws(database_pool, history.user, settled=history.settled)
        assert (row["balance"], row["owed"]) == (history.model.balance, history.model.owed)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    used=st.lists(st.tuples(st.integers(0, 2), st.integers(-300, 500)), min_size=1, max_size=12),
    bought=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4000)), max_size=4),
    seed=st.integers(0, 1 << 16),
)
async def test_what_is_debited_or_owed_is_what_was_rated_however_it_is_cut_and_voided(
    database_pool: Pool, used: list[tuple[int, int]], bought: list[tuple[int, int]], seed: int
) -> None:
    customers = [await make_customer(database_pool, billing_mode="prepaid") for _ in range(3)]
    price = await database_pool.fetchval("SELECT id FROM model_prices LIMIT 1") or await make_price(database_pool)
    desks, steps = (
        [Desk(database_pool), Desk(database_pool)],
        [*(("use", *u) for u in used), *(("buy", *b) for b in bought)],
    )
    random.Random(seed).shuffle(steps)
    rated = [Decimal(0)] * 3
    for kind, who, cents in steps:
        customer = customers[who]
        if kind == "buy":
            await database_pool.execute("SELECT add_user_credits($1, $2)", customer.user_id, Decimal(cents) / 100)
            continue
        rated[who] += Decimal(cents) / 100
        await use(database_pool, customer, price, Decimal(cents) / 100)
        if seed % 3:
            await asyncio.gather(*(desk.settling.settle_all() for desk in desks))
    await desks[0].settling.settle_all()
    for customer, amount in zip(customers, rated, strict=True):
        await obey_the_laws(database_pool, customer.user_id, settled=amount * 10)


async def use(pool: Pool, customer: Customer, price: UUID, amount: Decimal) -> None:
    async with pool.acquire() as connection:
        await rate_usage(
            connection, customer.subscription_id, customer.user_id, billing_mode="prepaid", price_id=price, amount=amount,
            currency="USD", requests=1 if amount >= 0 else -1, multiplier=Decimal(1),
        )  # fmt: skip


async def test_64_callers_who_repeat_themselves_leave_what_the_model_says(database: str) -> None:
    pool, rng = await create_pool(database, min_size=CALLERS, max_size=CALLERS), random.Random(11)
    async with pool.acquire() as connection:
        user = await make_user(connection)
    await pool.execute("SELECT add_user_credits($1, 100000, idempotency_key => 'first')", user)
    kinds = ["add", "debit", "settle", "void"]
    calls = [(rng.choice(kinds), Decimal(rng.randrange(1, 5000)) / 100) for _ in range(CALLERS)]
    statements = {
        "add": "SELECT add_user_credits($1, $2, 'bonus', idempotency_key => $3)",
        "debit": "SELECT debit_user_credits($1, $2, idempotency_key => $3)",
        "settle": "SELECT settle_user_credits($1, $2, $3)",
        "void": "SELECT settle_user_credits($1, -$2::numeric, $3)",
    }
    asked = [(n, *call) for n, call in enumerate(calls)] * 3
    rng.shuffle(asked)

    async def caller(mine: Sequence[tuple[int, str, Decimal]]) -> None:
        async with pool.acquire() as connection:
            for n, kind, amount in mine:
                await connection.execute(statements[kind], user, amount, f"key {n}")

    await asyncio.gather(*(caller(asked[n::CALLERS]) for n in range(CALLERS)))
    signed = {"add": 1, "void": 1, "debit": -1, "settle": -1}
    row = await obey_the_laws(pool, user)
    assert row["balance"] == 100000 + sum(signed[kind] * amount for kind, amount in calls)
    assert await pool.fetchval("SELECT count(*) FROM credit_transactions WHERE user_id = $1", user) == CALLERS + 1
    await pool.close()
