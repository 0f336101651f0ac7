"""What the tables of prices, rated usage, invoices and payments refuse, whatever code writes to them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from shared.ids import uuid7
from shared.postgres import Connection, Pool, transaction
from tests.integration.schema_facts import (
    NOON,
    insert,
    make_invoice,
    make_model,
    make_price,
    make_subscription,
    make_user,
    rate_usage,
    refused,
    violates,
)

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
ISSUED = {"issue_date": NOON, "due_date": NOON + timedelta(days=14), "status": "sent"}


# --- prices (protect_model_price) ------------------------------------------------------------------------------------


async def test_versions_follow_each_other_and_never_overlap(connection: Connection) -> None:
    await make_model(connection)
    await make_price(connection, model_id="gpt-4o", valid_to=MARCH)
    await make_price(connection, model_id="gpt-4o", valid_from=MARCH, valid_to=APRIL)
    await make_price(connection, model_id="gpt-4o", valid_from=APRIL, currency="EUR")
    for overlap in ({"valid_from": MARCH}, {"valid_from": MARCH + timedelta(hours=1), "valid_to": APRIL}, {}):
        async with violates(connection, "one_price_at_a_time"):
            await make_price(connection, model_id="gpt-4o", **overlap)
    await make_price(connection, tool_name="gpt-4o")
    await make_price(connection, feature_type="gpt-4o")


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("price_of_one_thing", {}),
        ("price_of_one_thing", {"tool_name": "x", "feature_type": "y"}),
        ("validity_is_on_hours", {"tool_name": "x", "valid_from": NOON + timedelta(minutes=30)}),
        ("validity_is_half_open", {"tool_name": "x", "valid_to": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("model_prices_output_price_per_1k_check", {"tool_name": "x", "output_price_per_1k": Decimal(-1)}),
        ("prices_are_finite", {"tool_name": "x", "price_per_request": Decimal("NaN")}),
    ],
)
async def test_what_a_price_cannot_be(connection: Connection, constraint: str, columns: dict[str, Any]) -> None:
    async with violates(connection, constraint):
        await make_price(connection, **columns)


async def test_a_price_is_closed_never_edited(connection: Connection) -> None:
    await make_model(connection)
    old = await make_price(connection, model_id="gpt-4o", input_price_per_1k=Decimal("0.01"))
    for change in (
        "UPDATE model_prices SET input_price_per_1k = 1 WHERE id = $1",
        "DELETE FROM model_prices WHERE id = $1",
    ):
        async with refused(connection, "TS003", "may have rated usage already"):
            await connection.execute(change, old)
    await connection.execute("UPDATE model_prices SET valid_to = $2 WHERE id = $1", old, MARCH)
    future = await make_price(connection, model_id="gpt-4o", valid_from=datetime(2099, 1, 1, tzinfo=UTC))
    await connection.execute("DELETE FROM model_prices WHERE id = $1", future)


async def test_cached_input_costs_as_much_as_input_unless_said_otherwise(connection: Connection) -> None:
    price = await make_price(connection, tool_name="x", input_price_per_1k=Decimal("0.01"))
    assert await connection.fetchval(
        "SELECT cached_input_price_per_1k FROM model_prices WHERE id = $1", price
    ) == Decimal("0.01")


# --- rated usage (protect_rated_usage) -------------------------------------------------------------------------------


async def rated(connection: Connection, **columns: Any) -> dict[str, Any]:
    """Store a rated row and return its key."""
    user = await make_user(connection)
    row = await rate_usage(connection, await make_subscription(connection, user), user, **columns)
    return {"subscription_id": row["subscription_id"], "rating_run_id": row["rating_run_id"]}


async def update(connection: Connection, key: dict[str, Any], assignments: str) -> None:
    where = "subscription_id = $1 AND rating_run_id = $2"
    await connection.execute(f"UPDATE rated_usage SET {assignments} WHERE {where}", *key.values())  # noqa: S608


PRICED: dict[str, Any] = {"price_id": uuid7(), "currency": "USD", "amount": Decimal("0.5"), "multiplier": Decimal(1)}


async def test_rated_usage_is_billed_once(connection: Connection) -> None:
    key = await rated(connection, **PRICED)
    await update(connection, key, "invoice_line_id = gen_random_uuid()")
    for change in ("invoice_line_id = gen_random_uuid()", "invoice_line_id = NULL", "amount = 0", "requests = 7"):
        async with refused(connection, "TS003", "append-only"):
            await update(connection, key, change)
    async with refused(connection, "TS003"):
        await connection.execute("DELETE FROM rated_usage")


async def test_no_column_of_rated_usage_is_forgotten_by_its_trigger(connection: Connection) -> None:
    definition = await connection.fetchval(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'protect_rated_usage'"
    )
    columns = await connection.fetch(
        "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = 'rated_usage'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    assert [row["name"] for row in columns if f"new.{row['name']}" not in definition] == []


async def test_held_usage_is_rated_once_and_not_billed_before(connection: Connection) -> None:
    key = await rated(connection)
    async with violates(connection, "held_is_not_billed"):
        await update(connection, key, "invoice_line_id = gen_random_uuid()")
    await update(connection, key, "price_id = gen_random_uuid(), amount = 0.5, currency = 'USD', multiplier = 1")
    async with refused(connection, "TS003"):
        await update(connection, key, "amount = 0.6")
    await update(connection, key, "invoice_line_id = gen_random_uuid()")


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("rated_or_held", {"price_id": uuid7()}),
        ("rated_or_held", {"price_id": uuid7(), "amount": Decimal(1)}),
        ("prepaid_is_settled_postpaid_invoiced", {**PRICED, "billing_mode": "prepaid", "invoice_line_id": uuid7()}),
        ("prepaid_is_settled_postpaid_invoiced", {**PRICED, "settlement_id": uuid7()}),
        ("hour_is_aligned", {"hour": NOON + timedelta(minutes=1)}),
    ],
)
async def test_what_rated_usage_cannot_be(connection: Connection, constraint: str, columns: dict[str, Any]) -> None:
    async with violates(connection, constraint):
        await rated(connection, **columns)


# --- invoices (protect_issued_invoice, protect_invoice_line, invoice_period) -----------------------------------------


async def add_line(connection: Connection, invoice: UUID, amount: str, **columns: Any) -> UUID:
    facts = {
        "invoice_id": invoice, "position": 1, "kind": "adjustment", "description": "usage", "quantity": Decimal(1), "unit": "request",
        "exact_amount": Decimal(amount), "amount": Decimal(amount),
    }  # fmt: skip
    row = await insert(connection, "invoice_lines", **{**facts, **columns})
    return UUID(int=row["id"].int)


async def issue(connection: Connection, invoice: UUID, **columns: Any) -> None:
    facts = {"number": f"INV-{invoice}", **ISSUED, **columns}
    assignments = ", ".join(f"{name} = ${place}" for place, name in enumerate(facts, 2))
    await connection.execute(f"UPDATE invoices SET {assignments} WHERE id = $1", invoice, *facts.values())  # noqa: S608


async def test_an_invoice_is_issued_only_if_its_lines_sum_to_it(connection: Connection) -> None:
    invoice = await make_invoice(connection, await make_user(connection))
    await add_line(connection, invoice, "10.00")
    await add_line(connection, invoice, "-2.50", position=2)
    async with refused(connection, "TS004", r"lines sum to 7.50, its subtotal is 10.00"):
        await issue(connection, invoice, subtotal=Decimal("10.00"), total=Decimal("10.00"))
    sums = {"subtotal": Decimal("7.50"), "tax": Decimal("1.43"), "total": Decimal("8.93")}
    async with refused(connection, "TS004", r"its taxes are 0 on 7.50, its tax is 1.43"):
        await issue(connection, invoice, **sums)
    taxes = '[{"category": "S", "rate": 0.19, "taxable": 7.50, "tax": 1.43}]'
    await issue(connection, invoice, **sums, taxes=taxes)


async def test_an_issued_invoice_is_fixed_but_for_its_payment(connection: Connection) -> None:
    invoice = await make_invoice(connection, await make_user(connection))
    line = await add_line(connection, invoice, "10.00")
    await issue(connection, invoice, subtotal=Decimal(10), total=Decimal(10))
    forbidden = {
        "UPDATE invoices SET total = 11, subtotal = 11": invoice,
        "UPDATE invoices SET number = NULL, issue_date = NULL, due_date = NULL, status = 'draft'": invoice,
        "UPDATE invoices SET items = '[{}]'": invoice,
        "DELETE FROM invoices": invoice,
        "UPDATE invoice_lines SET amount = 11": line,
        "DELETE FROM invoice_lines": line,
    }
    for statement, id_ in forbidden.items():
        async with refused(connection, "TS003", "is issued"):
            await connection.execute(f"{statement} WHERE id = $1", id_)
    async with refused(connection, "TS003", "is issued"):
        await add_line(connection, invoice, "1.00", position=2)
    await connection.execute("UPDATE invoices SET status = 'overdue' WHERE id = $1", invoice)
    await connection.execute("UPDATE invoices SET status = 'paid', paid_date = now() WHERE id = $1", invoice)


async def test_a_zero_invoice_is_an_invoice(connection: Connection) -> None:
    await issue(connection, await make_invoice(connection, await make_user(connection)))


async def test_a_period_is_invoiced_once_per_currency(connection: Connection) -> None:
    user = await make_user(connection)
    await make_invoice(connection, user)
    await make_invoice(connection, user, currency="EUR")
    await make_invoice(connection, user, kind="purchase")
    async with violates(connection, "one_usage_invoice_per_period"):
        await make_invoice(connection, user)


async def test_the_period_is_shown_as_json_and_its_end_is_not_part_of_it(connection: Connection) -> None:
    await connection.execute("SET LOCAL TimeZone = 'Asia/Tokyo'")
    invoice = await make_invoice(connection, await make_user(connection))
    period = await connection.fetchrow(
        "SELECT period ->> 'type', period ->> 'startDate', period ->> 'endDate' FROM invoices WHERE id = $1", invoice
    )
    assert tuple(period) == ("monthly", "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("draft_is_not_issued", {**ISSUED, "status": "draft", "number": "1"}),
        ("issued_has_number_and_dates", {"issue_date": NOON, "status": "cancelled"}),
        ("only_draft_or_cancelled_without_number", {"status": "sent"}),
        ("total_adds_up", {"total": Decimal(1)}),
        ("total_adds_up", {"total": Decimal("NaN"), "subtotal": Decimal("NaN")}),
        ("amounts_are_whole_minor_units", {"subtotal": Decimal("1.001"), "total": Decimal("1.001")}),
        ("amounts_are_whole_minor_units", {"subtotal": Decimal("1.5"), "total": Decimal("1.5"), "currency": "JPY"}),
        ("credit_note_gives_back", {"kind": "credit_note"}),
        ("credit_note_gives_back", {"subtotal": Decimal(-1), "total": Decimal(-1)}),
        ("period_is_half_open", {"period_end": datetime(2026, 10, 1, tzinfo=UTC)}),
        ("paid_has_date", {**ISSUED, "number": "1", "status": "paid"}),
        ("due_after_issue", {**ISSUED, "number": "1", "due_date": NOON - timedelta(days=1)}),
    ],
)
async def test_what_an_invoice_cannot_be(connection: Connection, constraint: str, columns: dict[str, Any]) -> None:
    async with violates(connection, constraint):
        await make_invoice(connection, await make_user(connection), **columns)


async def test_a_line_is_rounded_by_less_than_a_cent_and_has_the_invoices_currency(connection: Connection) -> None:
    invoice = await make_invoice(connection, await make_user(connection))
    async with violates(connection, "rounded_by_less_than_one_unit"):
        await add_line(connection, invoice, "1.00", exact_amount=Decimal("1.01"))
    async with violates(connection, "amount_is_whole_minor_units"):
        await add_line(connection, invoice, "1.001")
    async with violates(connection, "line_has_the_invoice_currency"):
        await add_line(connection, invoice, "1.00", currency="EUR")


async def test_a_line_that_bills_usage_stays(connection: Connection) -> None:
    invoice = await make_invoice(connection, await make_user(connection))
    line = await add_line(connection, invoice, "0.50")
    await rated(connection, **PRICED, invoice_line_id=line)
    async with refused(connection, "TS012", "bills usage"):
        await connection.execute("DELETE FROM invoice_lines WHERE id = $1", line)


async def test_numbers_are_gapless_whoever_fails(database_pool: Pool) -> None:
    # take_invoice_number(): every third caller rolls back, and its number goes to somebody else.
    async def take(number: int) -> str:
        async with transaction(database_pool) as connection:
            taken = await connection.fetchval("SELECT take_invoice_number('default', 2026)")
            if number % 3 == 0:
                raise RuntimeError("the issuing transaction fails")
            return str(taken)

    taken = await asyncio.gather(*(take(number) for number in range(30)), return_exceptions=True)
    assert sorted(t for t in taken if isinstance(t, str)) == [f"INV-2026-{n:06d}" for n in range(1, 21)]
    assert await database_pool.fetchval("SELECT take_invoice_number('ACME', 2027, 'CN')") == "ACME-CN-2027-000001"


async def test_no_line_slips_into_an_invoice_that_is_being_issued(database_pool: Pool) -> None:
    async with database_pool.acquire() as connection:
        invoice = await make_invoice(connection, await make_user(connection))
    async with database_pool.acquire() as issuer, database_pool.acquire() as writer:
        async with issuer.transaction():
            await issue(issuer, invoice)
            late = asyncio.create_task(add_line(writer, invoice, "1.00"))
            waiting = "SELECT cardinality(pg_blocking_pids($1)) > 0"
            while not await issuer.fetchval(waiting, writer.get_server_pid()):
                assert not late.done(), "the line did not wait for the issuing transaction"
        with pytest.raises(Exception, match="is issued"):
            await late


# --- payments, grants, alerts (complete_credit, complete_billing_alert) ----------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("refund_within_payment", {"status": "completed", "refunded_amount": Decimal(11)}),
        ("refunded_is_whole", {"status": "refunded", "refunded_amount": Decimal(9)}),
        ("refund_of_completed", {"refunded_amount": Decimal(1)}),
        ("failure_has_reason", {"status": "failed"}),
        ("amounts_are_whole_minor_units", {"amount": Decimal("1.001")}),
        ("payments_provider_check", {"provider": "cash"}),
    ],
)
async def test_what_a_payment_cannot_be(connection: Connection, constraint: str, columns: dict[str, Any]) -> None:
    facts = {"user_id": await make_user(connection), "amount": Decimal(10), "provider": "stripe"}
    async with violates(connection, constraint):
        await insert(connection, "payments", **{**facts, **columns})


async def test_a_provider_reports_a_payment_once(connection: Connection) -> None:
    facts = {
        "user_id": await make_user(connection),
        "amount": Decimal(10),
        "provider": "stripe",
        "provider_transaction_id": "pi_1",
    }
    await insert(connection, "payments", **facts)
    async with violates(connection, "payments_provider_provider_transaction_id_key"):
        await insert(connection, "payments", **facts)


async def test_a_payment_has_the_currency_of_its_invoice(connection: Connection) -> None:
    user = await make_user(connection)
    async with violates(connection, "payment_has_the_invoice_currency"):
        await insert(
            connection,
            "payments",
            user_id=user,
            amount=Decimal(1),
            provider="manual",
            currency="EUR",
            invoice_id=await make_invoice(connection, user),
        )


async def test_a_grant_is_whole_until_it_is_used_up(connection: Connection) -> None:
    grant = await insert(
        connection,
        "credits",
        user_id=await make_user(connection),
        amount=Decimal(10),
        reason="sorry",
        type="compensation",
    )
    assert (grant["remaining"], grant["used_at"]) == (10, None)
    used = "UPDATE credits SET remaining = $2 WHERE id = $1 RETURNING used_at"
    assert await connection.fetchval(used, grant["id"], Decimal(4)) is None
    assert await connection.fetchval(used, grant["id"], Decimal(0)) is not None
    async with violates(connection, "remaining_within_amount"):
        await connection.fetchval(used, grant["id"], Decimal(11))


async def test_an_alert_is_raised_once_per_cause_and_read_with_a_date(connection: Connection) -> None:
    alert = {
        "user_id": await make_user(connection),
        "type": "usage_threshold",
        "cause": "80 %, October",
        "message": "80 % used",
    }
    row = await insert(connection, "billing_alerts", **alert)
    async with violates(connection, "once_per_cause"):
        await insert(connection, "billing_alerts", **alert)
    assert (
        await connection.fetchval("UPDATE billing_alerts SET is_read = true WHERE id = $1 RETURNING read_at", row["id"])
        is not None
    )


async def test_a_job_runs_once_for_a_scheduled_time(connection: Connection) -> None:
    await insert(connection, "job_runs", job="close_periods", scheduled_for=NOON)
    async with violates(connection, "job_runs_pkey"):
        await insert(connection, "job_runs", job="close_periods", scheduled_for=NOON)
