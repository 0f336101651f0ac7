"""What a credit note gave back is not given back again when its usage is corrected, in whatever order the two come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from services.billing.invoices import corrections
from services.billing.invoices.crediting import CreditRefused
from services.billing.invoices.preview import preview
from services.billing.provenance import explain_set_off
from shared.period import Period
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import NOON, NOVEMBER, Desk, make_customer, make_price, usage
from tests.integration.test_invoice_corrections import TAXED, books, credit, invoiced, read, take_back, void

DECEMBER = Period.parse_month("2026-12")


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool, per_1k=("1", "1", "1"))
    await database_pool.execute(TAXED)
    return Desk(database_pool)


async def next_invoice(desk: Desk, period: Period = NOVEMBER) -> list[tuple[str, Decimal]]:
    """Close a later month; return the kinds and amounts of the lines of its one invoice. A preview shows the same before."""
    desk.clock.at = period.end + timedelta(days=2)
    user = await desk.value("SELECT user_id FROM rated_usage WHERE invoice_line_id IS NULL LIMIT 1")
    async with desk.billing.acquire() as connection:
        expected = [p.invoice for p in await preview(connection, user, period, now=desk.clock.now())] if user else []
    closing = await desk.close(period)
    assert closing.failures == []
    found = [[(ln.kind, ln.description, ln.amount) for ln in (await read(desk, i.id)).lines] for i in closing.invoices]
    assert [[(ln.kind, ln.description, ln.amount) for ln in i.lines] for i in expected] == found
    return [(kind, amount) for lines in found for kind, _, amount in lines]


@pytest.mark.parametrize("policy", ["adjustment", "credit_note"])
async def test_usage_that_a_note_gave_back_is_taken_back_without_giving_it_again(desk: Desk, policy: str) -> None:
    await desk.pool.execute("UPDATE legal_entities SET late_usage = $1", policy)
    customer, invoice = await invoiced(desk)
    await credit(desk, invoice.id, {1: Decimal(4)})
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    assert await next_invoice(desk) == [("adjustment", Decimal(-3)), ("adjustment", Decimal(3))]
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    given = await next_invoice(desk, DECEMBER)
    assert given == [("adjustment", Decimal(-3)), ("adjustment", Decimal(1)), ("carried", Decimal(2))]
    assert await books(desk) == []


async def test_the_line_says_which_note_had_given_it_and_can_be_explained(desk: Desk) -> None:
    customer, invoice = await invoiced(desk)
    await credit(desk, invoice.id, {1: Decimal(4)}, reason="load test")
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    await next_invoice(desk)
    (line,) = await desk.fetch("SELECT id, description FROM invoice_lines WHERE dimensions ? 'credit_note'")
    assert line["description"] == "Given back already by CN-2026-000001: gpt-4o: input tokens (balanced)"
    async with desk.billing.acquire() as connection:
        found = await explain_set_off(connection, line["id"])
        assert await explain_set_off(connection, invoice.lines[0].id) is None
    assert found is not None
    assert found.holds
    assert (found.stated, found.noted, found.set_off) == (Decimal(3), Decimal(4), Decimal(3))
    assert found.note == "CN-2026-000001/1"
    assert (found.of_line, list(found.corrections), found.reason) == (
        "INV-2026-000001/1", ["INV-2026-000002/1"], "load test",
    )  # fmt: skip


async def test_a_note_gives_what_corrections_of_usage_have_not_given(desk: Desk) -> None:
    customer, invoice = await invoiced(desk)
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    await next_invoice(desk)
    with pytest.raises(CreditRefused, match="given back already, as usage of it was taken back: with --goodwill"):
        await credit(desk, invoice.id, {1: Decimal(3)})
    note = await credit(desk, invoice.id, {1: Decimal(5)})
    assert [(ln.amount, ln.reduced) for ln in note.lines] == [(Decimal(2), Decimal(3))]
    with pytest.raises(CreditRefused, match=r"5.00 are left of it"):
        await credit(desk, invoice.id, {1: Decimal(6)})
    assert (await credit(desk, invoice.id)).subtotal == 10
    assert await books(desk) == []


async def test_goodwill_is_beside_what_is_corrected(desk: Desk) -> None:
    customer, invoice = await invoiced(desk)
    note = await credit(desk, invoice.id, {1: Decimal(4)}, goodwill=True)
    assert note.kind == "goodwill"
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    assert await next_invoice(desk) == [("adjustment", Decimal(-3)), ("carried", Decimal(3))]
    assert (await credit(desk, invoice.id, {1: Decimal(3)}, goodwill=True)).subtotal == 3
    assert await books(desk) == []


async def test_usage_that_a_void_gave_away_is_not_given_back_and_late_usage_is_billed(desk: Desk) -> None:
    customer, invoice = await invoiced(desk)
    await void(desk, invoice.id)
    await take_back(desk, customer.subscription_id, request_tokens=3_000, response_tokens=1_000)
    await desk.use(usage(customer.subscription_id, at=NOON + timedelta(hours=5), request_tokens=2_000))
    lines = await next_invoice(desk)
    assert sorted(amount for _, amount in lines) == [Decimal(n) for n in (-1, -1, 1, 3)]
    assert await books(desk) == []


async def test_what_was_given_back_on_a_later_invoice_cannot_be_voided_away(desk: Desk) -> None:
    customer, invoice = await invoiced(desk)
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    await next_invoice(desk)
    with pytest.raises(CreditRefused, match=r"3.00 USD given back for it on a later invoice"):
        await void(desk, invoice.id)
    assert (await credit(desk, invoice.id)).subtotal == 12
    assert await books(desk) == []


async def test_an_invoice_whose_notes_were_set_off_is_made_anew_after_the_one_that_did(desk: Desk) -> None:
    customer, invoice = await invoiced(desk)
    await credit(desk, invoice.id, {1: Decimal(4)})
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    await next_invoice(desk)
    with pytest.raises(CreditRefused, match="void INV-2026-000002 for rebilling first"):
        await void(desk, invoice.id, rebill=True)
    later = await desk.value("SELECT id FROM invoices WHERE number = 'INV-2026-000002'")
    await void(desk, later, rebill=True)
    assert await next_invoice(desk) == [("adjustment", Decimal(-3)), ("adjustment", Decimal(3))]
    later = await desk.value("SELECT id FROM invoices WHERE number = 'INV-2026-000003'")
    await void(desk, later, rebill=True)
    await void(desk, invoice.id, rebill=True)
    (again,) = (await desk.close()).invoices
    assert (await read(desk, again.id)).subtotal == 12
    assert await books(desk) == []


@pytest.mark.parametrize("policy", ["adjustment", "credit_note"])
async def test_notes_corrections_and_late_usage_come_to_the_same_in_any_order(desk: Desk, policy: str) -> None:
    await desk.pool.execute("UPDATE legal_entities SET late_usage = $1", policy)
    for noted in (Decimal("6.5"), None):
        paid = {seed: await _life(desk, random.Random(seed), noted, gives_away=False) for seed in range(4)}
        # used 10 and late 2; goodwill 1; the larger of what was noted and of what the usage lost
        assert set(paid.values()) == {Decimal(11) - max(Decimal(9) if noted is None else noted, Decimal("5.25"))}, paid
    assert {await _life(desk, random.Random(seed), None, gives_away=True) for seed in range(4)} == {Decimal(2)}
    assert await books(desk) == []


async def _life(desk: Desk, order: random.Random, noted: Decimal | None, *, gives_away: bool) -> Decimal:
    """Let the same corrections happen to a customer's invoice in some order; return what is paid in the end, net and exact."""
    customer = await make_customer(desk.pool)
    sub = customer.subscription_id
    await desk.use(usage(sub, request_tokens=10_000))
    desk.clock.at = datetime(2026, 11, 3, tzinfo=UTC)
    invoice = (await desk.close(only_user=customer.user_id)).invoices[0].id
    months = iter([NOVEMBER, DECEMBER])

    async def close() -> None:
        month = next(months)
        desk.clock.at = month.end + timedelta(days=2)
        assert (await desk.close(month, only_user=customer.user_id)).failures == []

    async def note(amount: Decimal | None, *, goodwill: bool = False) -> None:
        try:
            await credit(desk, invoice, {1: amount}, goodwill=goodwill)
        except CreditRefused as refused:  # nothing is left to be given
            assert "given back already" in str(refused)

    async def give_away() -> None:
        try:
            await void(desk, invoice)
        except CreditRefused:  # part of it was given back elsewhere: the rest is
            await note(None)

    happenings: list[Callable[[], Awaitable[object]]] = [
        lambda: desk.use(usage(sub, at=NOON + timedelta(hours=3), request_tokens=2_000)),
        lambda: take_back(desk, sub, request_tokens=4_000),
        lambda: take_back(desk, sub, request_tokens=1_250),
        close, close,
    ]  # fmt: skip
    happenings += [give_away] if gives_away else [lambda: note(noted)]
    if not gives_away:
        await note(Decimal(1), goodwill=True)
    order.shuffle(happenings)
    for happening in happenings:
        await happening()
    desk.clock.at = datetime(2027, 2, 2, tzinfo=UTC)
    last = Period.parse_month("2027-01")
    await desk.use(
        usage(sub, at=datetime(2027, 1, 3, 3, tzinfo=UTC), request_tokens=90_000)
    )  # takes what was carried over
    assert (await desk.close(last, only_user=customer.user_id)).failures == []
    return await _paid(desk, customer.user_id) - 90


async def _paid(desk: Desk, user: UUID) -> Decimal:
    return Decimal(
        await desk.value(
            """SELECT (SELECT sum(exact_subtotal) FROM invoices WHERE user_id = $1 AND NOT rebilled)
                    - coalesce((SELECT sum(n.exact_subtotal) FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
                                WHERE n.user_id = $1 AND NOT i.rebilled), 0)""",
            user,
        )
    )


async def test_a_note_and_a_closing_at_the_same_time_do_not_both_give(desk: Desk) -> None:
    for _ in range(4):
        customer, invoice = await invoiced(desk)
        await take_back(desk, customer.subscription_id, request_tokens=3_000)
        desk.clock.at = NOVEMBER.end + timedelta(days=2)

        async def write(id_: UUID = invoice.id) -> None:
            async with transaction(desk.billing) as connection:
                await corrections.credit_note(connection, id_, {1: Decimal(3)}, reason="agreed", at=desk.clock.now())

        await asyncio.gather(desk.close(NOVEMBER, only_user=customer.user_id), write(), return_exceptions=True)
        assert await _paid(desk, customer.user_id) + await _carried(desk, customer.user_id) == 12
        desk.clock.at = datetime(2026, 11, 3, tzinfo=UTC)
    assert await books(desk) == []


async def _carried(desk: Desk, user: UUID) -> Decimal:
    return Decimal(
        await desk.value(
            """SELECT coalesce(-sum(l.exact_amount), 0) FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
               WHERE i.user_id = $1 AND l.kind = 'carried'""",
            user,
        )
    )
