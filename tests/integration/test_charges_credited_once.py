"""Law: of a charge that a plan computed is given back at most what was charged, in any order of voids, notes, late usage and changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from services.billing.invoices import corrections
from services.billing.invoices.crediting import CreditRefused
from services.billing.invoices.preview import preview
from services.billing.provenance import explain_set_off
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import NOON, NOVEMBER, OCTOBER, Desk, make_price, usage
from tests.integration.test_invoice_corrections import books, credit, read, take_back, void
from tests.integration.test_plans import change, make_plan, store, subscribe

DECEMBER, JANUARY = Period.parse_month("2026-12"), Period.parse_month("2027-01")
METERS = """[{"key": "tokens", "measure": "input_tokens", "included": 0, "mode": "graduated",
              "tiers": [{"up_to": 4000, "unit_price": "0.003"}, {"unit_price": "0.002"}]}]"""
TENTH = (
    "INSERT INTO coupons (code, name, percent, periods, valid_from) VALUES ('TENTH', 'A tenth', 10, 9, '2026-01-01Z')"
)

Lines = list[tuple[str, Decimal]]


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool, per_1k=("1", "1", "1"))
    return Desk(database_pool)


async def close(desk: Desk, period: Period = OCTOBER, *, user: UUID | None = None) -> tuple[UUID | None, Lines]:
    """Close a month; return the one invoice, if there is one, and its lines. A preview shows the same before."""
    desk.clock.at = period.end + timedelta(days=2)
    user = user or await desk.value("SELECT id FROM users ORDER BY id DESC LIMIT 1")
    async with desk.billing.acquire() as connection:
        expected = [p.invoice for p in await preview(connection, user, period, now=desk.clock.now())]
    closing = await desk.close(period, only_user=user)
    assert closing.failures == []
    found = [await read(desk, issued.id) for issued in closing.invoices]
    assert [[(ln.kind, ln.amount, ln.description) for ln in i.lines] for i in expected] == [
        [(ln.kind, ln.amount, ln.description) for ln in i.lines] for i in found
    ]
    return (found[0].id, [(ln.kind, ln.amount) for ln in found[0].lines]) if found else (None, [])


async def overage_of_october(desk: Desk) -> tuple[UUID, UUID, Lines]:
    """Let a subscription use 10,000 tokens of a plan of usage alone, and close the month; return it, its invoice and the lines."""
    await make_plan(desk, amount="0", usage="included", meters=METERS)
    sub = await subscribe(desk)
    await desk.use(usage(sub, request_tokens=10_000))
    invoice, lines = await close(desk)
    assert invoice is not None
    return sub, invoice, lines


async def redeem(desk: Desk, subscription: UUID) -> None:
    await desk.pool.execute(TENTH)
    await store(
        desk, "coupon_redemptions",
        {"id": uuid7(), "code": "TENTH", "subscription_id": subscription, "redeemed_at": OCTOBER.start + timedelta(days=9), "redeemed_by": "test"},
    )  # fmt: skip


async def paid(desk: Desk, subscription: UUID) -> Decimal:
    """Return what the customer is left with to pay in the end: invoices less credit notes, net, exact, with what is carried over."""
    return Decimal(
        await desk.value(
            """SELECT (SELECT coalesce(sum(l.exact_amount), 0) FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
                       WHERE i.user_id = s.user_id AND NOT i.rebilled AND l.kind <> 'carried')
                    - (SELECT coalesce(sum(l.exact_amount), 0) FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id
                       JOIN invoices i ON i.id = n.invoice_id JOIN invoice_lines o ON o.id = l.invoice_line_id
                       WHERE n.user_id = s.user_id AND NOT i.rebilled AND o.kind <> 'carried')
               FROM subscriptions s WHERE s.id = $1""",
            subscription,
        )
    )


async def test_overage_of_a_void_invoice_is_not_given_back_when_its_usage_is_taken_back(desk: Desk) -> None:
    sub, invoice, lines = await overage_of_october(desk)
    assert ("overage", Decimal(24)) in lines
    await void(desk, invoice)
    await take_back(desk, sub, request_tokens=3_000)
    _, later = await close(desk, NOVEMBER)
    assert sum(amount for _, amount in later) == 0
    assert ("overage", Decimal(-6)) in later
    assert ("adjustment", Decimal(6)) in later
    assert await paid(desk, sub) == 0
    assert await books(desk) == []


async def test_usage_that_comes_after_the_void_is_charged_for_and_given_back_by_itself(desk: Desk) -> None:
    sub, invoice, _ = await overage_of_october(desk)
    await void(desk, invoice)
    await desk.use(usage(sub, request_tokens=3_000))
    _, late = await close(desk, NOVEMBER)
    assert ("overage", Decimal(6)) in late
    assert await paid(desk, sub) == 6
    await credit(desk, await desk.value("SELECT id FROM invoices ORDER BY number DESC LIMIT 1"))
    await take_back(desk, sub, request_tokens=10_000)
    await close(desk, DECEMBER)
    assert await paid(desk, sub) == 0
    assert await books(desk) == []


async def test_a_fee_that_was_given_away_is_not_credited_when_the_plan_changes(desk: Desk) -> None:
    await make_plan(desk, amount="31", billing_periods="anchored")
    await make_plan(desk, "big", amount="62", billing_periods="anchored")
    sub = await subscribe(desk, at=datetime(2026, 10, 20, tzinfo=UTC))
    await redeem(desk, sub)
    invoice, lines = await close(desk)
    assert sorted(lines) == [("discount", Decimal("-3.10")), ("fee", Decimal(31))]
    assert invoice is not None
    await void(desk, invoice)
    await change(desk, sub, datetime(2026, 11, 4, tzinfo=UTC), plan_id="big")
    _, later = await close(desk, NOVEMBER)
    assert [amount for kind, amount in later if kind == "adjustment"] == [Decimal(16), Decimal("-1.60")]
    assert await paid(desk, sub) == (32 + 62) * Decimal(
        "0.9"
    )  # the rest of October's month on the big plan, and a month of it
    assert await books(desk) == []


async def test_a_note_gives_of_a_fee_what_a_change_of_plan_has_left(desk: Desk) -> None:
    await make_plan(desk, amount="31", billing_periods="anchored")
    await make_plan(desk, "small", amount="0", billing_periods="anchored")
    sub = await subscribe(desk, at=datetime(2026, 10, 20, tzinfo=UTC))
    invoice, _ = await close(desk)
    assert invoice is not None
    await credit(desk, invoice, {1: Decimal(5)})
    await change(desk, sub, datetime(2026, 11, 4, tzinfo=UTC), plan_id="small")
    _, later = await close(desk, NOVEMBER)
    assert later == [("proration", Decimal(-16)), ("carried", Decimal(16))]
    assert (await credit(desk, invoice, {1: Decimal(26)})).subtotal == 10
    assert await paid(desk, sub) == 0
    assert await books(desk) == []


async def test_an_invoice_whose_charge_was_given_back_later_is_not_given_away_whole(desk: Desk) -> None:
    sub, invoice, lines = await overage_of_october(desk)
    await take_back(desk, sub, request_tokens=3_000)
    await close(desk, NOVEMBER)
    with pytest.raises(CreditRefused, match="given back for it on a later invoice"):
        await void(desk, invoice)
    overage = 1 + [kind for kind, _ in lines].index("overage")
    with pytest.raises(CreditRefused, match="were given back already"):
        await credit(desk, invoice, {overage: Decimal(6)})
    assert (await credit(desk, invoice, {overage: None})).subtotal == 18
    assert await paid(desk, sub) == 0
    assert await books(desk) == []


async def test_what_was_set_off_is_not_given_by_a_note_over_the_line_that_set_it_off(desk: Desk) -> None:
    sub, invoice, _ = await overage_of_october(desk)
    await void(desk, invoice)
    await take_back(desk, sub, request_tokens=3_000)
    await desk.use(usage(sub, at=NOVEMBER.start, request_tokens=9_000))
    later, _ = await close(desk, NOVEMBER)
    assert later is not None
    document = await read(desk, later)
    setting_off = next(ln for ln in document.lines if ln.amount == 6 and "credit_note" in ln.dimensions)
    with pytest.raises(CreditRefused, match="takes off what CN-2026-000001 gave back already"):
        await credit(desk, later, {setting_off.position: Decimal(6)})
    async with desk.billing.acquire() as connection:
        explained = await explain_set_off(connection, setting_off.id)
    assert explained is not None
    assert explained.holds
    await credit(desk, later)
    assert await paid(desk, sub) == 0
    assert await books(desk) == []


async def test_a_month_that_is_made_anew_beside_a_later_correction_of_its_charge_can_be_closed(desk: Desk) -> None:
    sub, invoice, _ = await overage_of_october(desk)
    await take_back(desk, sub, request_tokens=3_000)
    await close(desk, NOVEMBER)
    await void(desk, invoice, rebill=True)
    assert await books(desk) == []
    _, again = await close(desk)
    assert ("overage", Decimal(24)) in again
    assert await paid(desk, sub) == 18
    assert await books(desk) == []


@pytest.mark.parametrize("seed", range(5))
async def test_no_order_of_happenings_gives_back_more_than_was_charged(desk: Desk, seed: int) -> None:
    order = random.Random(seed)
    await make_plan(desk, amount="31", usage="included", meters=METERS, minimum=Decimal(35), billing_periods="anchored")
    await make_plan(desk, "big", amount="62", meters=METERS, billing_periods="anchored")
    sub = await subscribe(desk, at=datetime(2026, 10, 10, tzinfo=UTC))
    await redeem(desk, sub)
    await desk.use(usage(sub, request_tokens=10_000))
    months = iter([OCTOBER, NOVEMBER, DECEMBER, JANUARY, Period.parse_month("2027-02")])
    await close(desk, next(months))

    async def next_month() -> None:
        await close(desk, next(months))

    async def an_invoice() -> UUID | None:
        ids = await desk.fetch(
            "SELECT id FROM invoices WHERE status <> 'cancelled' AND number IS NOT NULL ORDER BY number"
        )
        return order.choice(ids)["id"] if ids else None

    async def give_away() -> None:
        if id_ := await an_invoice():
            await _refusable(void(desk, id_))

    async def make_anew() -> None:
        id_ = await desk.value("SELECT id FROM invoices WHERE status <> 'cancelled' ORDER BY number DESC LIMIT 1")
        if id_:
            await _refusable(void(desk, id_, rebill=True))
            month = Period.month_of(await desk.value("SELECT period_start FROM invoices WHERE id = $1", id_))
            at, desk.clock.at = desk.clock.at, month.end
            await close(desk, month)
            desk.clock.at = max(at, desk.clock.at)

    async def note() -> None:
        if id_ := await an_invoice():
            line = order.choice([ln for ln in (await read(desk, id_)).lines if ln.amount > 0])
            part = None if order.random() < 0.5 else (line.amount / 2).quantize(Decimal("0.01"))
            await _refusable(credit(desk, id_, {line.position: part}))

    happenings: list[Callable[[], Awaitable[object]]] = [
        next_month, next_month, next_month, give_away, give_away, make_anew, note, note, note,
        lambda: desk.use(usage(sub, request_tokens=2_000)),
        lambda: desk.use(usage(sub, at=NOON + timedelta(days=25), request_tokens=5_500)),
        lambda: take_back(desk, sub, request_tokens=4_000),
        lambda: take_back(desk, sub, request_tokens=1_250),
        lambda: change(desk, sub, datetime(2026, 10, 25, tzinfo=UTC), plan_id="big"),
    ]  # fmt: skip
    order.shuffle(happenings)
    for happening in happenings:
        await happening()
        assert await books(desk) == []
    await next_month()
    assert await books(desk) == []
    assert await paid(desk, sub) >= Decimal("-0.05")


async def _refusable(asked: Awaitable[object]) -> None:
    with suppress(CreditRefused):
        await asked


async def test_a_void_and_a_closing_at_the_same_time_do_not_both_give(desk: Desk) -> None:
    await make_plan(desk, amount="0", usage="included", meters=METERS)
    for _ in range(3):
        sub = await subscribe(desk)
        user = await desk.value("SELECT user_id FROM subscriptions WHERE id = $1", sub)
        await desk.use(usage(sub, request_tokens=10_000))
        invoice, _ = await close(desk, user=user)
        assert invoice is not None
        await take_back(desk, sub, request_tokens=3_000)
        desk.clock.at = NOVEMBER.end + timedelta(days=2)

        async def give_away(id_: UUID = invoice) -> None:
            async with transaction(desk.billing) as connection:
                await corrections.void_invoice(connection, id_, reason="agreed", at=desk.clock.now())

        await asyncio.gather(desk.close(NOVEMBER, only_user=user), give_away(), return_exceptions=True)
        assert await paid(desk, sub) in (0, 18)
    assert await books(desk) == []


async def test_a_charge_that_was_given_back_twice_is_found(desk: Desk) -> None:
    """Planted: the set-off is missing, as it was before there were any."""
    sub, invoice, _ = await overage_of_october(desk)
    await void(desk, invoice)
    await take_back(desk, sub, request_tokens=3_000)
    await close(desk, NOVEMBER)
    assert await books(desk) == []
    await desk.pool.execute(
        """ALTER TABLE credit_set_offs DISABLE TRIGGER USER;
           DELETE FROM credit_set_offs s USING credit_note_lines n, invoice_lines l
           WHERE n.id = s.credit_note_line_id AND l.id = n.invoice_line_id AND l.charge_key LIKE 'overage%'"""
    )
    assert "charges credited once: USD" in await desk.differing()
