"""What the tables of invoices' parties, corrections and credit notes refuse, whatever code writes to them."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.ids import uuid7
from shared.postgres import Connection, Pool
from tests.integration.schema_facts import (
    NOON,
    insert,
    make_invoice,
    make_price,
    make_subscription,
    make_user,
    refused,
    violates,
)
from tests.integration.test_schema_billing import add_line, issue


async def issued(connection: Connection, amount: str = "10.00", **columns: Any) -> tuple[UUID, UUID]:
    """Return an issued invoice and its one line."""
    invoice = await make_invoice(connection, await make_user(connection))
    line = await add_line(connection, invoice, amount)
    await issue(connection, invoice, subtotal=Decimal(amount), total=Decimal(amount), **columns)
    return invoice, line


async def note(connection: Connection, invoice: UUID, total: str, *lines: tuple[UUID, str]) -> UUID:
    """Write a credit note with its lines."""
    id_ = uuid7()
    user = await connection.fetchval("SELECT user_id FROM invoices WHERE id = $1", invoice)
    await insert(
        connection, "credit_notes", id=id_, invoice_id=invoice, user_id=user, entity="default", number=f"CN-{id_}", kind="correction",
        reason="agreed", currency="USD", exact_subtotal=Decimal(total), subtotal=Decimal(total), tax=Decimal(0), total=Decimal(total),
        taxes="[]", seller="{}", buyer="{}", language="en", issued_at=NOON,
    )  # fmt: skip
    if lines:
        await connection.execute(
            """INSERT INTO credit_note_lines (credit_note_id, position, invoice_line_id, description, quantity, unit, exact_amount, amount,
                                              currency, tax_category, tax_rate)
               SELECT $1, n, line, 'x', 1, 'x', amount, amount, 'USD', 'O', 0
               FROM unnest($2::uuid[], $3::numeric[]) WITH ORDINALITY AS l (line, amount, n)""",
            id_, [line for line, _ in lines], [Decimal(amount) for _, amount in lines],
        )  # fmt: skip
    return id_


# --- credit notes (book_credit_note, check_credit_note_lines, check_credit_note) ------------------------------------------------


async def test_a_credit_note_is_booked_on_its_invoice_and_never_changes(connection: Connection) -> None:
    invoice, line = await issued(connection)
    await note(connection, invoice, "4.00", (line, "4.00"))
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert await connection.fetchval("SELECT amount_credited FROM invoices WHERE id = $1", invoice) == 4
    for change in ("UPDATE credit_notes SET total = 0", "DELETE FROM credit_notes", "UPDATE credit_note_lines SET amount = 0",
                   "DELETE FROM credit_note_lines", "TRUNCATE credit_notes CASCADE"):  # fmt: skip
        async with refused(connection, "TS003", "append-only"):
            await connection.execute(change)


async def test_what_a_credit_note_cannot_be(connection: Connection) -> None:
    invoice = await make_invoice(connection, await make_user(connection))
    line, discount = (
        await add_line(connection, invoice, "10.00"),
        await add_line(connection, invoice, "-5.00", position=2),
    )
    await issue(connection, invoice, subtotal=Decimal(5), total=Decimal(5))
    _, strange = await issued(connection, number="INV-OTHER")
    draft = await make_invoice(connection, await make_user(connection))
    async with refused(connection, "TS004", "sum to 3.00, its subtotal is 4.00"):
        await note(connection, invoice, "4.00", (line, "3.00"))
    async with refused(connection, "TS004", "has no lines"):
        await note(connection, invoice, "4.00")
    async with refused(connection, "TS004", "10.00 were invoiced"):
        await note(connection, invoice, "4.00", (strange, "4.00"))
    async with refused(connection, "TS004", "is not issued"):
        await note(connection, draft, "4.00", (line, "4.00"))
    async with violates(connection, "credited_within_total"):
        await note(connection, invoice, "5.01", (line, "5.01"))
    await note(connection, invoice, "1.00", (line, "4.00"), (discount, "-3.00"))
    async with refused(connection, "TS004", r"were invoiced and -?\d+.00 taken back"):
        await note(connection, invoice, "2.00", (line, "7.00"), (discount, "-5.00"))


# --- invoices (check_invoice_transition, audit_invoice, complete_invoice_line, protect_issued_lines) ----------------------------

TRANSITIONS = {
    "sent": {"partially_paid", "paid", "overdue", "cancelled"},
    "partially_paid": {"sent", "paid", "overdue", "cancelled"},
    "overdue": {"sent", "partially_paid", "paid", "cancelled"},
    "paid": {"sent", "partially_paid", "overdue", "cancelled"},
    "cancelled": set(),
}


@pytest.mark.parametrize("before", TRANSITIONS)
async def test_what_an_issued_invoice_may_become_and_that_it_is_audited(connection: Connection, before: str) -> None:
    invoice, _ = await issued(connection)
    become = "UPDATE invoices SET status = $2, paid_date = CASE WHEN $2 = 'paid' THEN now() END WHERE id = $1"
    if before != "sent":
        await connection.execute(become, invoice, before)
    for after in {*TRANSITIONS, "draft"} - {before}:
        if after in TRANSITIONS[before]:
            changing = connection.transaction()
            await changing.start()
            await connection.execute(become, invoice, after)
            trail = "SELECT action FROM audit_logs WHERE resource_id = $1 AND before ->> 'status' = $2"
            assert await connection.fetchval(trail, str(invoice), before) == f"invoice.{after}"
            await changing.rollback()
        elif after != "draft":
            async with refused(connection, "TS011", f"is {before} and cannot become {after}"):
                await connection.execute(become, invoice, after)


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("disputed_with_reason", {"disputed_at": NOON}),
        ("only_issued_are_disputed", {"disputed_at": NOON, "dispute_reason": "x"}),
        ("rebilled_is_cancelled", {"rebilled": True}),
        ("paid_is_finite", {"amount_paid": Decimal(-1)}),
        ("credited_within_total", {"amount_credited": Decimal(1)}),
        ("invoice_entity_exists", {"entity": "nobody"}),
    ],
)
async def test_what_an_invoice_cannot_be(connection: Connection, constraint: str, columns: dict[str, Any]) -> None:
    async with violates(connection, constraint):
        await make_invoice(connection, await make_user(connection), **columns)
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")


async def test_lines_are_added_to_drafts_and_name_what_exists(connection: Connection) -> None:
    invoice = await make_invoice(connection, await make_user(connection))
    await add_line(connection, invoice, "1.00")
    assert await connection.fetchval("SELECT currency FROM invoice_lines WHERE invoice_id = $1", invoice) == "USD"
    for position, strange in enumerate(
        ({"subscription_id": uuid7()}, {"price_id": uuid7()}, {"usage_line_id": uuid7()}), 2
    ):
        async with refused(connection, "23503", "does not exist"):
            await add_line(connection, invoice, "1.00", position=position, **strange)
    known = await make_subscription(connection)
    price = await make_price(connection, tool_name="search")
    await add_line(connection, invoice, "1.00", position=2, subscription_id=known, price_id=price)
    async with refused(connection, "TS012", "cannot be deleted"):
        await connection.execute("DELETE FROM subscriptions WHERE id = $1", known)
    await issue(connection, invoice, subtotal=Decimal(2), total=Decimal(2))
    async with refused(connection, "TS003", "INSERT of a line is refused"):
        await add_line(connection, invoice, "1.00", position=3)


async def test_an_invoice_with_lines_stays_and_keeps_its_currency(connection: Connection) -> None:
    # keep_invoice_of_lines(): what a foreign key of the lines did.
    invoice = await make_invoice(connection, await make_user(connection))
    line = await add_line(connection, invoice, "1.00")
    for change in ("DELETE FROM invoices WHERE id = $1", "UPDATE invoices SET currency = 'EUR' WHERE id = $1",
                   "UPDATE invoices SET id = gen_random_uuid() WHERE id = $1"):  # fmt: skip
        async with violates(connection, "line_has_the_invoice_currency"):
            await connection.execute(change, invoice)
    await connection.execute("DELETE FROM invoice_lines WHERE id = $1", line)
    await connection.execute("UPDATE invoices SET currency = 'EUR' WHERE id = $1", invoice)
    await connection.execute("DELETE FROM invoices WHERE id = $1", invoice)
    async with violates(connection, "line_has_the_invoice_currency"):
        await add_line(connection, invoice, "1.00", currency="EUR")


async def blocked(connection: Connection, other: Connection, waiting: asyncio.Task[Any]) -> None:
    """Return when `other`, which does what `waiting` stands for, waits for a lock of somebody else."""
    while not await connection.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", other.get_server_pid()):
        assert not waiting.done(), "it did not wait"


async def test_no_line_comes_to_an_invoice_that_is_being_deleted(database_pool: Pool) -> None:
    async with database_pool.acquire() as one, database_pool.acquire() as other:
        invoice = await make_invoice(one, await make_user(one))
        async with one.transaction():
            await one.execute("DELETE FROM invoices WHERE id = $1", invoice)
            late = asyncio.create_task(add_line(other, invoice, "1.00", currency="USD"))
            await blocked(one, other, late)
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="does not exist"):
            await late


async def test_no_invoice_goes_that_is_given_a_line_meanwhile(database_pool: Pool) -> None:
    async with database_pool.acquire() as one, database_pool.acquire() as other:
        invoice = await make_invoice(one, await make_user(one))
        async with one.transaction():
            await add_line(one, invoice, "1.00")
            late = asyncio.create_task(other.execute("DELETE FROM invoices WHERE id = $1", invoice))
            await blocked(one, other, late)
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="has lines"):
            await late


async def test_a_charge_is_charged_once_for_ever(connection: Connection) -> None:
    invoice = await make_invoice(connection, await make_user(connection))
    await add_line(connection, invoice, "1.00", charge_key="fee:1")
    async with violates(connection, "one_line_per_charge"):
        await add_line(connection, invoice, "1.00", position=2, charge_key="fee:1")


USAGES: list[tuple[str, dict[str, Any]]] = [
    ("2026-10-02T00:00Z", {}),
    ("2026-10-09T00:00Z", {"multiplier": 0.7, "feature_type": "chat"}),
    ("2026-10-02T00:00Z", {"power_level": "balanced"}),
    ("2026-09-02T00:00Z", {}),
    ("2026-09-30T00:00Z", {}),
    ("2026-08-30T00:00Z", {}),
    ("2026-10-02T00:00Z", {"model_id": "", "tool_name": "t", "feature_type": "chat"}),
    ("2026-10-02T00:00Z", {"model_id": "", "tool_name": "t", "feature_type": "docs"}),
]


async def test_usage_that_one_price_charges_alike_shares_a_line(connection: Connection) -> None:
    # usage_line_id(): by month if late, by feature only where there is no model.
    ids = await connection.fetch(
        """SELECT usage_line_id('00000000-0000-0000-0000-000000000001', jsonb_populate_record(NULL::rated_usage,
               '{"model_id": "m", "tool_name": "", "power_level": "eco", "byok": false, "multiplier": 0.70}' || change), '2026-10-01Z') AS id
           FROM unnest($1::jsonb[]) change""",
        [json.dumps({"hour": hour, **change}) for hour, change in USAGES],
    )
    distinct = [row["id"] for row in ids]
    assert (distinct[0], distinct[3]) == (distinct[1], distinct[4])
    assert len(set(distinct)) == 6
    assert {id_.bytes[:6] for id_ in distinct} == {bytes(6)}, (
        "they begin as the id of their invoice does, with its time"
    )


# --- parties (party_of_entity, party_of_customer, audit_party, erase_billing_profile, keep_invoice_prefix, invoice_number_text) ---


async def test_numbers_have_the_prefix_of_their_entity_which_is_fixed_once_they_are_taken(
    connection: Connection,
) -> None:
    await insert(connection, "legal_entities", id="acme", name="Acme", invoice_prefix="AC")
    await connection.execute("UPDATE legal_entities SET invoice_prefix = 'ACME' WHERE id = 'acme'")
    assert await connection.fetchval("SELECT take_invoice_number('acme', 2026)") == "ACME-INV-2026-000001"
    assert await connection.fetchval("SELECT take_invoice_number('acme', 2026, 'CN')") == "ACME-CN-2026-000001"
    assert await connection.fetchval("SELECT take_invoice_number('acme', 2027)") == "ACME-INV-2027-000001"
    assert (
        await connection.fetchval("SELECT invoice_number_text('default', 'INV', 2026, 1234567)") == "INV-2026-1234567"
    )
    for change in (
        "UPDATE legal_entities SET invoice_prefix = 'X' WHERE id = 'acme'",
        "DELETE FROM legal_entities WHERE id = 'acme'",
    ):
        async with refused(connection, "TS003", "has issued invoices"):
            await connection.execute(change)
    await connection.execute("UPDATE legal_entities SET name = 'Acme Inc' WHERE id = 'acme'")
    assert (
        await connection.fetchval("SELECT party_of_entity(e) ->> 'name' FROM legal_entities e WHERE id = 'acme'")
        == "Acme Inc"
    )


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("reverse_charge_has_vat_id", {"tax_treatment": "reverse_charge"}),
        ("exemption_has_reason", {"tax_treatment": "exempt", "exemption_reason": ""}),
        ("only_standard_is_taxed", {"tax_treatment": "exempt", "exemption_reason": "x", "tax_rate": Decimal("0.19")}),
        ("billing_profiles_country_check", {"country": "de"}),
        ("billing_profiles_language_check", {"language": "xx"}),
    ],
)
async def test_what_a_profile_cannot_be(connection: Connection, constraint: str, columns: dict[str, Any]) -> None:
    async with violates(connection, constraint):
        await insert(connection, "billing_profiles", user_id=await make_user(connection), name="Ada", **columns)


async def test_a_profile_goes_with_the_person_and_leaves_no_name_in_the_audit_trail(connection: Connection) -> None:
    user = await make_user(connection)
    await insert(
        connection, "billing_profiles", user_id=user, name="Ada Lovelace", city="London", tax_rate=Decimal("0.2")
    )
    party = await connection.fetchval(
        "SELECT party_of_customer('a@b.c', NULL, p) FROM billing_profiles p WHERE user_id = $1", user
    )
    assert json.loads(party) == {"name": "Ada Lovelace", "city": "London", "email": "a@b.c"}
    trail = await connection.fetchrow(
        "SELECT after, details FROM audit_logs WHERE resource_id = $1 AND resource_type = 'billing_profiles'", str(user)
    )
    assert json.loads(trail["after"]) == {"tax_rate": 0.2, "tax_treatment": "standard"}
    assert "name" in json.loads(trail["details"])["changed"]
    await connection.execute("SELECT anonymise_user($1)", user)
    assert await connection.fetchval("SELECT count(*) FROM billing_profiles WHERE user_id = $1", user) == 0


async def test_what_changed_of_an_entity_is_in_the_audit_trail(connection: Connection) -> None:
    await connection.execute("UPDATE legal_entities SET city = 'Berlin'")
    trail = await connection.fetchrow(
        "SELECT before, after FROM audit_logs WHERE action = 'legal_entity.changed' ORDER BY created_at DESC LIMIT 1"
    )
    assert (json.loads(trail["before"]), json.loads(trail["after"])) == ({"city": None}, {"city": "Berlin"})


async def test_a_tenant_sees_its_own_profile_and_credit_notes(connection: Connection) -> None:
    users = []
    for number in ("INV-A", "INV-B"):
        invoice, line = await issued(connection, number=number)
        await note(connection, invoice, "1.00", (line, "1.00"))
        users.append(await connection.fetchval("SELECT user_id FROM invoices WHERE id = $1", invoice))
        await insert(connection, "billing_profiles", user_id=users[-1], name=number)
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    seen = {}
    nobody = str(uuid7())
    for tenant in (str(users[0]), nobody):
        looking = connection.transaction()
        await looking.start()
        await connection.execute("SET LOCAL ROLE tallystick_tenant")
        await connection.execute("SELECT set_config('app.current_user_id', $1, true)", tenant)
        tables = ("billing_profiles", "credit_notes", "credit_note_lines")
        seen[tenant] = [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables]  # noqa: S608
        await looking.rollback()
    assert seen == {str(users[0]): [1, 1, 1], nobody: [0, 0, 0]}
