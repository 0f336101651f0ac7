"""Reservations: what they take, what settles them, and what gives them back."""

# What is called here, directly or through the services: reserve_many and concurrent_limit; settle_reserved_quota, use_reserved_credits and
# release_debited_credits; cancel_reservation; expire_reservations and expire_reservations_of, with give_back_reserved_quota and
# give_back_reserved_credits; forget_reservations.

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.api.reservations import Ask, digest_of, store
from services.ingest.announcing import announce_again, find_unheard
from shared.contracts import decode_recorded
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.aggregator_facts import make_subscription, used
from tests.integration.billing_facts import make_price, usage
from tests.integration.rebuild_facts import store_batch
from tests.integration.reservation_facts import KEEP, Held, House, usage_naming
from tests.unit.aggregator.facts import NOON, delta, recorded


@pytest.fixture
def house(database_pool: Pool) -> House:
    return House(database_pool)


async def prepaid(pool: Pool, given: str = "100", **fields: object) -> UUID:
    """Store a prepaid subscription whose user has credits; a thousand tokens of gpt-4o cost 0.025 of them."""
    subscription = await make_subscription(pool, billing_mode="prepaid", currency="USD", **fields)
    user = await pool.fetchval("SELECT user_id FROM subscriptions WHERE id = $1", subscription)
    await pool.execute("SELECT add_user_credits($1, $2)", user, Decimal(given))
    if not await pool.fetchval("SELECT EXISTS (SELECT FROM model_prices)"):
        await make_price(pool)
    return subscription


async def balance(pool: Pool, subscription: UUID) -> Any:
    return await pool.fetchval(
        "SELECT balance FROM user_credits c JOIN subscriptions s USING (user_id) WHERE s.id = $1", subscription
    )


async def test_a_reservation_takes_from_the_quotas_until_its_usage_does(house: House) -> None:
    owner = await make_subscription(house.pool, quota_requests=10, quota_tokens=1_000)
    [answer] = await house.reserve(Ask(owner, tokens=300))
    assert (answer.outcome, answer.reasons) == ("reserved", ())
    assert (answer.remaining.requests, answer.remaining.tokens) == (9, 700)
    assert answer.reservation is not None
    assert answer.reservation.expires_at == house.clock.at + timedelta(minutes=10)
    assert await house.held(owner) == Held(1, 1, 300)

    await house.use(owner, answer.reservation.id, tokens=250)
    assert await house.held(owner) == Held()
    assert await used(house.pool, owner) == (1, 250)
    assert await house.state(answer.reservation.id) == "settled"


async def test_a_refusal_names_every_reason_and_what_remains(house: House) -> None:
    owner = await prepaid(house.pool, "5", plan_id="free", quota_requests=3, quota_tokens=100)
    await house.reserved(owner, tokens=40, credits=Decimal(2))
    [answer] = await house.reserve(Ask(owner, requests=3, tokens=61, credits=Decimal("3.01")))
    assert answer.outcome == "refused"
    assert answer.reasons == ("quota_requests", "quota_tokens", "credits_exhausted", "concurrent_requests")
    assert (answer.remaining.requests, answer.remaining.tokens, answer.remaining.concurrent) == (2, 60, 0)
    assert (answer.remaining.credits, answer.remaining.reset_at) == (
        Decimal(3),
        await house.pool.fetchval("SELECT reset_at FROM subscriptions WHERE id = $1", owner),
    )
    assert await house.held(owner) == Held(1, 1, 40)


@pytest.mark.parametrize(
    ("status", "fields", "reasons"),
    [
        ("paused", {}, ("paused",)),
        ("cancelled", {}, ("cancelled",)),
        ("suspended", {"suspended_reasons": ["admin", "payment_overdue"]}, ("admin", "payment_overdue")),
        ("active", {"quota_requests": 5, "used_requests": 5}, ("quota_requests",)),
    ],
)
async def test_only_what_may_be_used_can_be_reserved(
    house: House, status: str, fields: dict[str, object], reasons: tuple[str, ...]
) -> None:
    owner = await make_subscription(house.pool, status=status, **fields)
    [answer] = await house.reserve(Ask(owner))
    assert (answer.outcome, answer.reasons) == ("refused", reasons)


async def test_nobody_reserves_for_a_subscription_that_does_not_exist(house: House) -> None:
    known = await make_subscription(house.pool)
    unknown, answer = await house.reserve(Ask(uuid7()), Ask(known))
    assert (unknown.outcome, unknown.reservation) == ("unknown", None)
    assert answer.outcome == "reserved"


async def test_as_many_at_once_as_the_plan_allows(house: House) -> None:
    owner = await make_subscription(house.pool, plan_id="basic")
    answers = await house.reserve(*[Ask(owner, requests=0) for _ in range(7)])
    assert [answer.outcome for answer in answers] == ["reserved"] * 5 + ["refused"] * 2
    assert answers[-1].reasons == ("concurrent_requests",)
    first = answers[0].reservation
    assert first is not None
    await house.cancel(first.id)
    await house.reserved(owner)


async def test_a_limit_that_does_not_suspend_does_not_refuse(house: House) -> None:
    owner = await make_subscription(house.pool, plan_id="premium")
    assert {answer.outcome for answer in await house.reserve(*[Ask(owner)] * 26)} == {"reserved"}


async def test_the_same_key_is_the_same_reservation(house: House) -> None:
    owner, other = await make_subscription(house.pool), await make_subscription(house.pool)
    ask = Ask(owner, tokens=5, key="call-1", digest=digest_of(5))
    first, twice = await house.reserve(ask, ask)
    [again] = await house.reserve(ask)
    assert (first.outcome, twice.outcome, again.outcome) == ("reserved", "repeated", "repeated")
    assert first.reservation == twice.reservation == again.reservation
    assert await house.held(owner) == Held(1, 1, 5)

    [changed, elsewhere] = await house.reserve(
        replace(ask, tokens=6, digest=digest_of(6)), replace(ask, subscription_id=other)
    )
    assert (changed.outcome, changed.reservation, elsewhere.outcome) == ("key_reused", None, "reserved")
    assert await house.held(owner) == Held(1, 1, 5)

    assert first.reservation is not None
    await house.cancel(first.reservation.id)
    [late] = await house.reserve(ask)
    assert (late.outcome, late.reservation and late.reservation.state) == ("repeated", "cancelled")


async def test_a_refused_key_may_try_again(house: House) -> None:
    owner = await make_subscription(house.pool, quota_requests=1)
    blocking = await house.reserved(owner)
    ask = Ask(owner, key="call-2", digest=digest_of())
    assert [answer.outcome for answer in await house.reserve(ask)] == ["refused"]
    await house.cancel(blocking)
    assert [answer.outcome for answer in await house.reserve(ask)] == ["reserved"]


async def test_settling_twice_counts_once(house: House) -> None:
    owner = await make_subscription(house.pool, quota_tokens=100)
    one, other = await house.reserved(owner, tokens=10), await house.reserved(owner, tokens=20)
    await house.use(owner, one, one)
    await house.use(owner, one, tokens=7)
    assert await house.held(owner) == Held(1, 1, 20)
    assert await house.state(other) == "held"
    assert await used(house.pool, owner) == (2, 7), "usage counts, whatever it names"


async def test_a_message_that_comes_twice_settles_nothing_more(house: House) -> None:
    owner = await make_subscription(house.pool)
    id_ = await house.reserved(owner, tokens=10)
    message = await house.use(owner, id_)
    await house.reserved(owner, tokens=10)
    await house.aggregator.apply(message)
    assert await house.held(owner) == Held(1, 1, 10)


async def test_usage_that_names_no_reservation_of_its_own_is_counted_and_changes_no_hold(house: House) -> None:
    owner, other = await make_subscription(house.pool), await make_subscription(house.pool)
    theirs, ended = await house.reserved(other, tokens=3), await house.reserved(owner, ttl_seconds=5)
    house.wait(6)
    assert await house.expiry() == 1
    await house.use(owner, theirs, ended, uuid7(), tokens=50)
    assert await used(house.pool, owner) == (1, 50)
    assert (await house.held(owner), await house.held(other)) == (Held(), Held(1, 1, 3))
    assert await house.state(ended) == "expired"


async def test_what_is_cancelled_is_given_back_once(house: House) -> None:
    owner = await prepaid(house.pool, quota_tokens=10)
    id_ = await house.reserved(owner, tokens=10, credits=Decimal(60))
    for _ in range(2):
        cancelled = await house.cancel(id_)
        assert cancelled is not None
        assert cancelled.state == "cancelled"
    assert (await house.held(owner), await house.held_credits(owner)) == (Held(), 0)
    await house.reserved(owner, tokens=10, credits=Decimal(100))
    assert await house.cancel(uuid7()) is None


async def test_what_is_settled_cannot_be_cancelled(house: House) -> None:
    owner = await make_subscription(house.pool)
    id_ = await house.reserved(owner)
    await house.use(owner, id_)
    found = await house.cancel(id_)
    assert found is not None
    assert found.state == "settled"
    stored = await store.find(house.pool, id_)
    assert stored is not None
    assert stored[0] == found


async def test_who_reserves_is_not_kept_waiting_for_what_is_over(house: House) -> None:
    owner = await prepaid(house.pool, "10", quota_requests=1)
    id_ = await house.reserved(owner, credits=Decimal(10), ttl_seconds=30)
    house.wait(30)
    await house.reserved(owner, credits=Decimal(10))
    assert await house.state(id_) == "expired"
    assert (await house.held(owner), await house.held_credits(owner)) == (Held(1, 1, 0), 10)


async def test_nothing_leaks_after_expiry(house: House) -> None:
    owners = [await prepaid(house.pool) for _ in range(3)]
    for place, owner in enumerate(owners):
        for ttl in (10, 20 + place):
            await house.reserved(owner, tokens=7, credits=Decimal(1), ttl_seconds=ttl)
    house.wait(10)
    assert await house.expiry() == 3
    assert [(await house.held(o), await house.held_credits(o)) for o in owners] == [(Held(1, 1, 7), 1)] * 3
    house.wait(20)
    assert (await house.expiry(), await house.expiry()) == (3, 0)
    assert [(await house.held(o), await house.held_credits(o)) for o in owners] == [(Held(), 0)] * 3


async def test_credits_stay_held_until_their_usage_is_debited(house: House) -> None:
    owner = await prepaid(house.pool, "100")
    id_ = await house.reserved(owner, tokens=2_000_000, credits=Decimal(60))
    message = await house.use(owner, id_, tokens=2_000_000, bill=False)
    assert (await house.held(owner), await house.held_credits(owner)) == (Held(), 60)
    await house.bill(message, debit=False)
    house.wait(3600)
    assert await house.expiry() == 0
    assert (await balance(house.pool, owner), await house.held_credits(owner)) == (100, 60)
    await house.desk.settling.settle_all()
    assert (await balance(house.pool, owner), await house.held_credits(owner)) == (50, 0)


async def test_credits_of_usage_without_a_price_stay_held_until_there_is_one(house: House) -> None:
    owner = await prepaid(house.pool, "100")
    id_ = await house.reserved(owner, credits=Decimal(60))
    message = recorded(delta(owner, tokens=1_000, model_id="nobody-knows", reservations=[id_]))
    await house.aggregator.apply(message)
    await house.bill(message)
    assert await house.held_credits(owner) == 60


async def test_credits_are_given_back_when_no_debit_will_follow(house: House) -> None:
    """Its subscription is invoiced by now."""
    owner = await prepaid(house.pool, "100")
    id_ = await house.reserved(owner, credits=Decimal(60))
    await house.pool.execute("UPDATE subscriptions SET billing_mode = 'postpaid' WHERE id = $1", owner)
    await house.use(owner, id_, debit=False)
    assert await house.held_credits(owner) == 0


async def test_both_legs_are_given_back_once_whichever_service_is_quicker(house: House) -> None:
    owner = await prepaid(house.pool, "100")
    by_billing, by_aggregator = (
        await house.reserved(owner, credits=Decimal(1), ttl_seconds=5),
        await house.reserved(owner, credits=Decimal(2), ttl_seconds=5),
    )
    first = recorded(usage_naming(owner, [by_billing]))
    await house.bill(first, debit=False)
    second = await house.use(owner, by_aggregator, bill=False)
    house.wait(5)
    assert await house.expiry() == 1
    assert (await house.held(owner), await house.held_credits(owner)) == (Held(), 3), "both are used"
    await house.aggregator.apply(first)
    await house.bill(second)
    assert (await house.held(owner), await house.held_credits(owner)) == (Held(), 0)
    assert [await house.state(id_) for id_ in (by_billing, by_aggregator)] == ["expired", "settled"]


async def test_credits_are_the_users_whatever_the_subscription(house: House) -> None:
    one = await prepaid(house.pool, "10")
    other = await prepaid(house.pool, "1")
    await house.pool.execute(
        "UPDATE subscriptions SET user_id = (SELECT user_id FROM subscriptions WHERE id = $1) WHERE id = $2", one, other
    )
    answers = await house.reserve(*[Ask(owner, credits=Decimal(4)) for owner in (one, other, one, other)])
    assert sorted(answer.outcome for answer in answers) == ["refused", "refused", "reserved", "reserved"]
    assert await house.held_credits(one) == 8


async def test_who_is_invoiced_holds_no_credits(house: House) -> None:
    owner = await make_subscription(house.pool)
    [answer] = await house.reserve(Ask(owner, credits=Decimal(5)))
    assert answer.outcome == "reserved"
    assert answer.reservation is not None
    assert (answer.reservation.credits, answer.remaining.credits) == (Decimal(0), None)


async def test_reconciliation_finds_what_is_held_for_nobody(house: House) -> None:
    owner = await prepaid(house.pool)
    await house.reserved(owner, tokens=5, credits=Decimal(2))
    assert await house.differing() == []
    await house.pool.execute("UPDATE reservation_holds SET tokens = tokens + 1")
    await house.pool.execute("UPDATE credit_holds SET credits = credits - 1")
    assert await house.differing() == ["reservations = holds: tokens", "reserved credits = holds: credits"]


async def test_what_ingest_announces_settles_and_announced_again_nothing_more(house: House) -> None:
    owner = await make_subscription(house.pool)
    one, other = await house.reserved(owner, tokens=9), await house.reserved(owner, tokens=7)
    rows = [
        usage(owner, at=NOON, reservation_id=str(one)),
        usage(owner, at=NOON, reservation_id="not ours"),
        usage(owner, at=NOON),
    ]
    messages = await store_batch(house.pool, rows)
    assert [m.deltas[0].reservations for m in messages] == [[one]]
    await house.aggregator.apply(*messages)
    assert await house.held(owner) == Held(1, 1, 7)
    assert await house.state(other) == "held"

    async with transaction(house.pool) as connection:
        unheard = await find_unheard(connection, datetime(2100, 1, 1, tzinfo=UTC))
        assert (
            len((await announce_again(connection, unheard, actor="ada")).announced) == 1
        )  # billing has not heard of it
    again = [decode_recorded(row["value"]) for row in await house.pool.fetch("SELECT value FROM ingest_outbox")]
    assert [m.deltas[0].reservations for m in again] == [[one]]
    await house.aggregator.apply(*again)
    assert (await house.held(owner), await used(house.pool, owner)) == (Held(1, 1, 7), (3, 0))


async def test_finished_reservations_are_forgotten_and_open_ones_never(house: House) -> None:
    owner = await prepaid(house.pool)
    waiting, done, open_ = [await house.reserved(owner, credits=Decimal(1)) for _ in range(3)]
    await house.use(owner, done)
    await house.use(owner, waiting, bill=False)
    house.clock.at = datetime.now(UTC) + KEEP + timedelta(seconds=1)  # ids have the time of the machine
    assert await house.expiry.forget() == 1
    assert {row["id"] for row in await house.pool.fetch("SELECT id FROM reservations")} == {waiting, open_}
