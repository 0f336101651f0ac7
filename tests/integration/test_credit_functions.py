"""Prepaid credits: the SQL functions, alone and under many callers at once.

The internal ones (lock_credit_account, replayed_credit_transaction, post_credit_transaction, suspend_exhausted_subscriptions,
clear_exhausted_subscriptions, check_credit_balance) are what these are made of, and tested through them.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.ids import uuid7
from shared.postgres import Connection, Pool, create_pool
from tests.integration.schema_facts import insert, make_subscription, make_user, refused, subscription, violates

CALLERS = 64


async def add(
    connection: Connection | Pool, user: UUID, amount: object, kind: str = "purchase", **more: Any
) -> asyncpg.Record:
    return await call(connection, "add_user_credits", user, amount, kind, **more)


async def debit(connection: Connection | Pool, user: UUID, amount: object, **more: Any) -> asyncpg.Record:
    return await call(connection, "debit_user_credits", user, amount, **more)


async def settle(connection: Connection | Pool, user: UUID, amount: object, key: str) -> asyncpg.Record:
    return await call(connection, "settle_user_credits", user, amount, key)


async def call(
    connection: Connection | Pool, function: str, user: UUID, amount: object, *rest: Any, **named: Any
) -> asyncpg.Record:
    """Call a credit function: user and amount first, then the rest, then named arguments."""
    given = ["$1::uuid", "$2::text::numeric", *(f"${n}" for n in range(3, 3 + len(rest)))]
    given += [f"{name} => ${n}" for n, name in enumerate(named, 3 + len(rest))]
    statement = f"SELECT * FROM {function}({', '.join(given)})"  # noqa: S608
    row = await connection.fetchrow(statement, user, str(amount), *rest, *named.values())
    assert row is not None
    return row


async def account(connection: Connection | Pool, user: UUID) -> tuple[Any, Any]:
    """Return balance and owed."""
    row = await connection.fetchrow("SELECT balance, owed FROM user_credits WHERE user_id = $1", user)
    return (row["balance"], row["owed"]) if row else (Decimal(0), Decimal(0))


async def ledger(connection: Connection | Pool, user: UUID) -> list[tuple[Any, ...]]:
    rows = await connection.fetch("SELECT * FROM credit_transactions WHERE user_id = $1 ORDER BY sequence", user)
    return [(row["transaction_type"], row["amount"], row["balance_after"]) for row in rows]


# --- the calls of the two documents ----------------------------------------------------------------------------------


async def test_both_documents_calls_work_as_they_are_written(connection: Connection) -> None:
    user = await make_user(connection)
    for call in (
        "add_user_credits('…'::uuid, 100.00, 'purchase', 'stripe_pi_123', 'Test credit addition')",
        "debit_user_credits('…'::uuid, 5.00, 'usage', 'req_123', 'LLM inference request')",
        "debit_user_credits('…', 1.5, 'openai', 'gpt-4o', 100, 50, 'balanced', '{}'::JSONB)",
    ):
        await connection.execute("SELECT * FROM " + call.replace("…", str(user)))  # noqa: S608
    row = await connection.fetchrow(
        "SELECT * FROM debit_user_credits($1, $2, $3, $4, $5, $6, $7, $8::JSONB)",
        user, Decimal("1.5"), "openai", "gpt-4o", 100, 50, "balanced", '{"app": "crm"}',
    )  # fmt: skip
    assert (row["success"], row["new_balance"]) == (True, Decimal("92.00"))
    entry = await connection.fetchrow("SELECT * FROM credit_transactions WHERE id = $1", row["transaction_id"])
    assert (entry["provider"], entry["model"], entry["prompt_tokens"], entry["completion_tokens"]) == (
        "openai",
        "gpt-4o",
        100,
        50,
    )
    assert (entry["balance_before"], entry["amount"], entry["balance_after"]) == (
        Decimal("93.50"),
        Decimal("-1.5"),
        Decimal("92.00"),
    )
    assert await connection.fetchval("SELECT get_user_balance($1)", user) == Decimal("92.00")


async def test_a_purchase_keeps_its_references(connection: Connection) -> None:
    user, package = (
        await make_user(connection),
        await connection.fetchval("SELECT id FROM credit_packages WHERE name = 'Value Pack'"),
    )
    row = await add(connection, user, 500, package_id=package, payment_method="stripe", stripe_transaction_id="ch_1")
    entry = await connection.fetchrow("SELECT * FROM credit_transactions WHERE id = $1", row["transaction_id"])
    assert (entry["package_id"], entry["payment_method"], entry["stripe_transaction_id"]) == (package, "stripe", "ch_1")


# --- debit -----------------------------------------------------------------------------------------------------------


async def test_insufficient_credits_say_how_much_is_missing(connection: Connection) -> None:
    user = await make_user(connection)
    await add(connection, user, 3)
    async with refused(connection, "TS001", "insufficient credits: 5 needed, 3 available, 2 missing"):
        await debit(connection, user, 5)
    try:
        async with connection.transaction():
            await debit(connection, user, "5.25")
    except asyncpg.PostgresError as error:
        assert json.loads(error.detail) == {"needed": 5.25, "available": 3, "missing": 2.25, "owed": 0}
    assert await account(connection, user) == (3, 0)


@pytest.mark.parametrize("amount", ["0", "NaN", "Infinity"])
async def test_an_amount_is_a_number_that_is_not_zero(connection: Connection, amount: str) -> None:
    user = await make_user(connection)
    await add(connection, user, 3)
    async with refused(connection, "TS004"):
        await debit(connection, user, amount)
    async with refused(connection, "TS004"):
        await add(connection, user, amount)
    async with refused(connection, "TS004"):
        await debit(connection, user, -1)


async def test_an_unknown_user_is_told(connection: Connection) -> None:
    async with refused(connection, "TS005", "there is no user"):
        await debit(connection, uuid7(), 1)
    assert await connection.fetchval("SELECT get_user_balance($1)", uuid7()) == 0


@pytest.mark.parametrize(
    ("debited", "credited"),
    [("usage", "bonus"), ("debit", "refund"), ("adjustment", "adjustment"), ("admin_adjustment", "admin_adjustment")],
)
async def test_both_spellings_of_a_type_are_accepted(connection: Connection, debited: str, credited: str) -> None:
    user = await make_user(connection)
    await add(connection, user, 2, credited)
    await debit(connection, user, 1, transaction_type=debited)
    assert [kind for kind, _, _ in await ledger(connection, user)] == [credited, debited]


# --- idempotency -----------------------------------------------------------------------------------------------------


async def test_a_repeated_call_returns_the_first_result(connection: Connection) -> None:
    user = await make_user(connection)
    bought = [await add(connection, user, 100, idempotency_key="buy") for _ in range(2)]
    taken = [await debit(connection, user, amount, idempotency_key="use") for amount in ("5", "5.00")]
    await debit(connection, user, 10)
    again = await debit(connection, user, 5, idempotency_key="use")
    assert bought[0] == bought[1]
    assert taken[0] == taken[1] == again
    assert await account(connection, user) == (85, 0)


async def test_the_same_key_with_other_parameters_is_an_error(connection: Connection) -> None:
    user = await make_user(connection)
    await add(connection, user, 100, idempotency_key="k")
    async with refused(connection, "TS002", "'k' was used for another request"):
        await add(connection, user, 99, idempotency_key="k")
    async with refused(connection, "TS002"):
        await debit(connection, user, 100, idempotency_key="k")
    async with refused(connection, "TS002"):
        await settle(connection, user, 100, "k")
    await add(connection, await make_user(connection), 7, idempotency_key="k")  # keys are a user's own


# --- adding, refunding, owing ----------------------------------------------------------------------------------------


async def test_a_refund_never_takes_more_than_is_there(connection: Connection) -> None:
    user = await make_user(connection)
    await add(connection, user, 10)
    await add(connection, user, -4, "refund")
    async with refused(connection, "TS001", "7 to take back, 6 available, 1 missing"):
        await add(connection, user, -7, "refund")
    async with refused(connection, "TS004"):
        await add(connection, user, -1, "purchase")
    assert await account(connection, user) == (6, 0)


async def test_usage_beyond_the_balance_is_owed_and_paid_first(connection: Connection) -> None:
    user = await make_user(connection)
    await add(connection, user, 10)
    settled = await settle(connection, user, 25, "window-1")
    assert (settled["debited"], settled["owed_added"], settled["new_balance"], settled["total_owed"]) == (10, 15, 0, 15)
    assert await settle(connection, user, 25, "window-1") == settled
    assert (await add(connection, user, 5, idempotency_key="first"))["new_balance"] == 0
    assert await account(connection, user) == (0, 10)
    topped = await add(connection, user, 30, idempotency_key="second")
    assert topped["new_balance"] == 20
    assert await add(connection, user, 30, idempotency_key="second") == topped
    assert await account(connection, user) == (20, 0)
    assert await ledger(connection, user) == [
        ("purchase", 10, 10), ("usage", -10, 0), ("purchase", 5, 5), ("owed_settlement", -5, 0), ("purchase", 30, 30), ("owed_settlement", -10, 20),
    ]  # fmt: skip


async def test_a_settlement_of_nothing_leaves_no_trace(connection: Connection) -> None:
    user = await make_user(connection)
    row = await settle(connection, user, 0, "window-1")
    assert (row["debited"], row["owed_added"], row["transaction_id"]) == (0, 0, None)
    assert await ledger(connection, user) == []
    async with refused(connection, "TS004"):
        await settle(connection, user, "NaN", "window-2")
    async with refused(connection, "TS002", "needs an idempotency key"):
        await settle(connection, user, 1, "")


# --- suspension ------------------------------------------------------------------------------------------------------


async def test_exhausted_credits_suspend_prepaid_subscriptions_until_the_debt_is_paid(connection: Connection) -> None:
    user = await make_user(connection)
    prepaid = await make_subscription(connection, user, billing_mode="prepaid")
    trialing = await make_subscription(connection, user, billing_mode="prepaid", plan_id="basic", status="trialing")
    postpaid = await make_subscription(connection, user, plan_id="premium")

    async def statuses() -> list[str]:
        return [(await subscription(connection, id_))["status"] for id_ in (prepaid, trialing, postpaid)]

    await settle(connection, user, 0, "w0")
    assert await statuses() == ["active", "trialing", "active"], "without usage nobody is suspended, credits or not"
    await add(connection, user, 10)
    await settle(connection, user, 9, "w1")
    assert await statuses() == ["active", "trialing", "active"]
    await settle(connection, user, 4, "w2")
    assert await statuses() == ["suspended", "suspended", "active"]
    assert (await subscription(connection, prepaid))["suspended_reasons"] == ["credits_exhausted"]
    await add(connection, user, 3)
    assert await statuses() == ["suspended", "suspended", "active"], "the top-up paid the debt to the last credit"
    await add(connection, user, 1)
    assert await statuses() == ["active", "trialing", "active"]


async def test_a_debit_of_the_last_credit_suspends(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user, billing_mode="prepaid")
    await add(connection, user, 10)
    await debit(connection, user, 10)
    assert (await subscription(connection, id_))["status"] == "suspended"


async def test_a_top_up_lifts_no_other_reason(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user, billing_mode="prepaid")
    await connection.execute("SELECT suspend_subscription($1, 'admin')", id_)
    await settle(connection, user, 1, "w1")
    await add(connection, user, 5)
    assert (await subscription(connection, id_))["suspended_reasons"] == ["admin"]


# --- allowance -------------------------------------------------------------------------------------------------------


async def test_the_allowance_used_is_a_percentage_of_this_cycle(connection: Connection) -> None:
    user = await make_user(connection)
    percentage = "SELECT get_quota_usage_percentage($1)"
    assert await connection.fetchval(percentage, user) is None
    await insert(connection, "user_credits", user_id=user, monthly_allowance=Decimal(30))
    await add(connection, user, 8)
    await settle(connection, user, 10, "w1")
    assert await connection.fetchval(percentage, user) == Decimal("33.33"), "what is owed was used, too"
    await connection.execute(
        """UPDATE user_credits SET billing_cycle_start = billing_cycle_start - interval '3 months',
               billing_cycle_end = billing_cycle_end - interval '3 months' WHERE user_id = $1""",
        user,
    )
    assert await connection.fetchval(percentage, user) == 0
    await add(connection, user, 10)
    await debit(connection, user, 3)
    assert await connection.fetchval(percentage, user) == 10
    assert await connection.fetchval(
        "SELECT billing_cycle_start <= now() AND now() < billing_cycle_end FROM user_credits WHERE user_id = $1", user
    )


# --- the ledger ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credit_transactions SET amount = 1",
        "DELETE FROM credit_transactions",
        "TRUNCATE credit_transactions CASCADE",
    ],
)
async def test_the_ledger_is_append_only(connection: Connection, statement: str) -> None:
    await add(connection, await make_user(connection), 1)
    async with refused(connection, "TS003", "append-only"):
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await connection.execute(statement)


async def test_the_account_cannot_leave_its_ledger(connection: Connection) -> None:
    user = await make_user(connection)
    await add(connection, user, 5)
    async with refused(connection, "TS003", r"the account says 1000 .* the ledger 5"):
        await connection.execute("UPDATE user_credits SET balance = 1000 WHERE user_id = $1", user)
    async with refused(connection, "23514"):
        await connection.execute("UPDATE user_credits SET balance = -1 WHERE user_id = $1", user)
    async with refused(connection, "TS003"):
        await insert(connection, "user_credits", user_id=await make_user(connection), balance=Decimal(1))


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("balance_is_chained", {"balance_before": 4, "balance_after": 5}),
        ("balance_is_chained", {"sequence": 3, "previous_sequence": 2, "balance_before": 5, "balance_after": 6}),
        ("balance_adds_up", {"balance_before": 5, "balance_after": 7}),
        ("previous_is_one_less", {"previous_sequence": None, "balance_before": 0, "balance_after": 1}),
        (
            "credit_transactions_user_id_sequence_key",
            {"sequence": 1, "previous_sequence": None, "balance_before": 0, "balance_after": 1},
        ),
        ("sign_fits_type", {"amount": -1, "balance_before": 5, "balance_after": 4}),
    ],
)
async def test_an_entry_that_breaks_the_chain_is_refused(
    connection: Connection, constraint: str, columns: dict[str, Any]
) -> None:
    user = await make_user(connection)
    await add(connection, user, 5)
    entry = {"user_id": user, "sequence": 2, "previous_sequence": 1, "transaction_type": "bonus", "amount": 1}
    async with violates(connection, constraint):
        await insert(connection, "credit_transactions", **{**entry, **columns})


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def many(database: str) -> Any:
    """A pool in which 64 callers each have a connection."""
    pool = await create_pool(database, max_size=CALLERS)
    yield pool
    await pool.close()


async def test_64_callers_at_once_never_take_more_than_there_is(many: Pool) -> None:
    user = await make_user_in(many)
    await add(many, user, 100)
    results = await asyncio.gather(*(debit(many, user, 3) for _ in range(CALLERS)), return_exceptions=True)
    refusals = [result for result in results if isinstance(result, asyncpg.PostgresError)]
    assert {refusal.sqlstate for refusal in refusals} == {"TS001"}
    assert (len(results) - len(refusals), await account(many, user)) == (33, (1, 0))


async def test_64_callers_with_one_key_debit_once(many: Pool) -> None:
    user = await make_user_in(many)
    await add(many, user, 100)
    results = await asyncio.gather(*(debit(many, user, 3, idempotency_key="once") for _ in range(CALLERS)))
    assert len({row["transaction_id"] for row in results}) == 1
    assert await account(many, user) == (97, 0)


async def test_64_callers_who_mix_everything_leave_a_ledger_that_adds_up(many: Pool) -> None:
    user, rng = await make_user_in(many), random.Random(7)
    calls: list[Awaitable[asyncpg.Record]] = []
    for number in range(CALLERS):
        match rng.randrange(3):
            case 0:
                calls.append(settle(many, user, rng.randrange(1, 50), f"settle {number}"))
            case 1:
                calls.append(add(many, user, rng.randrange(1, 60), idempotency_key=f"add {number}"))
            case _:
                calls.append(debit(many, user, rng.randrange(1, 20), idempotency_key=f"debit {number}"))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {r.sqlstate for r in results if isinstance(r, asyncpg.PostgresError)} <= {"TS001"}
    assert [r for r in results if isinstance(r, Exception) and not isinstance(r, asyncpg.PostgresError)] == []
    sums = await many.fetchrow(
        """SELECT sum(amount) AS balance, sum(owed_change) AS owed, count(*) AS entries, max(sequence) AS last,
                  bool_and(balance_after >= 0 AND owed_after >= 0) AS sound FROM credit_transactions WHERE user_id = $1""",
        user,
    )
    assert (sums["balance"], sums["owed"]) == await account(many, user)
    assert sums["entries"] == sums["last"]
    assert sums["sound"]


async def make_user_in(pool: Pool) -> UUID:
    async with pool.acquire() as connection:
        return await make_user(connection)
