"""The laws of reservations, on any history and under 200 gateways at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.api.reservations import Ask, Reserver
from shared.contracts import UsageRecorded
from shared.postgres import Pool, create_pool
from tests.integration.aggregator_facts import Aggregator, make_subscription, used
from tests.integration.billing_facts import make_price
from tests.integration.reservation_facts import Held, House, usage_naming
from tests.unit.aggregator.facts import recorded

GATEWAYS = 200
QUOTA_REQUESTS, QUOTA_TOKENS, CREDITS = 6, 100, Decimal(20)
AT_ONCE = 5
"""Of the plan that they are on: basic."""

PLACES = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(
        st.just("reserve"),
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 60), st.integers(0, 12), st.sampled_from([5, 30, 300])),
            min_size=1, max_size=3,
        ),
    ),
    st.tuples(st.just("use"), st.integers(0, 1), st.lists(PLACES, max_size=2), st.integers(0, 40)),
    st.tuples(st.just("count")),
    st.tuples(st.just("bill")),
    st.tuples(st.just("debit")),
    st.tuples(st.just("cancel"), PLACES),
    st.tuples(st.just("wait"), st.sampled_from([1, 4, 29, 400])),
    st.tuples(st.just("expire")),
)  # fmt: skip


@dataclass
class Modelled:
    """A reservation as the model has it: its two legs end apart."""

    id: UUID
    owner: int
    requests: int
    tokens: int
    credits: int
    expires_at: datetime
    state: Literal["held", "settled", "cancelled", "expired"] = "held"
    leg: Literal["held", "used", "released"] = "held"

    def end(self, state: Literal["cancelled", "expired"]) -> None:
        if self.state == "held":
            self.state = state
            if self.leg == "held":
                self.leg = "released"


@dataclass
class Model:
    """Two prepaid subscriptions of one user: what is used, and what reservations hold."""

    made: list[Modelled] = field(default_factory=list)
    used: list[list[int]] = field(default_factory=lambda: [[0, 0], [0, 0]])
    debited: Decimal = Decimal(0)
    to_debit: Decimal = Decimal(0)

    def held(self, owner: int) -> Held:
        open_ = [r for r in self.made if r.owner == owner and r.state == "held"]
        return Held(len(open_), sum(r.requests for r in open_), sum(r.tokens for r in open_))

    @property
    def held_credits(self) -> int:
        return sum(r.credits for r in self.made if r.leg != "released")

    def expire(self, now: datetime, owner: int | None = None) -> None:
        for r in self.made:
            if r.expires_at <= now and owner in (None, r.owner):
                r.end("expired")

    def count(self, owners: list[UUID], message: UsageRecorded) -> None:
        [delta] = message.deltas
        owner = owners.index(delta.subscription_id)
        self.used[owner][0] += delta.requests
        self.used[owner][1] += delta.request_tokens
        for r in self.made:
            if r.id in delta.reservations and r.owner == owner and r.state == "held":
                r.state = "settled"

    def bill(self, owners: list[UUID], message: UsageRecorded) -> None:
        [delta] = message.deltas
        self.to_debit += delta.request_tokens / Decimal(10)
        for r in self.made:
            if r.id in delta.reservations and owners[r.owner] == delta.subscription_id and r.leg == "held":
                r.leg = "used"

    def debit(self) -> None:
        self.debited, self.to_debit = min(CREDITS, self.debited + self.to_debit), Decimal(0)
        for r in self.made:
            r.leg = "released" if r.leg == "used" else r.leg

    def why_not(self, owner: int, requests: int, tokens: int, asked: int) -> set[str]:
        held, (used_requests, used_tokens) = self.held(owner), self.used[owner]
        found = {
            "quota_requests": used_requests >= QUOTA_REQUESTS or used_requests + held.requests + requests > QUOTA_REQUESTS,
            "quota_tokens": used_tokens >= QUOTA_TOKENS or used_tokens + held.tokens + tokens > QUOTA_TOKENS,
            "credits_exhausted": self.debited >= CREDITS or (asked > 0 and self.held_credits + asked > CREDITS - self.debited),
            "concurrent_requests": held.open >= AT_ONCE,
        }  # fmt: skip
        return {reason for reason, is_so in found.items() if is_so}


class History:
    """Does to the database what it does to the model, and compares."""

    def __init__(self, house: House, owners: list[UUID]) -> None:
        self.house, self.owners, self.model = house, owners, Model()
        self.uncounted: list[UsageRecorded] = []
        self.unbilled: list[UsageRecorded] = []

    async def step(self, kind: str, *arguments: Any) -> None:
        now = self.house.clock.at
        match kind, arguments:
            case "reserve", (asked,):
                await self._reserve(asked)
            case "use", (owner, places, tokens):
                named = [self.model.made[place] for place in places if place < len(self.model.made)]
                message = recorded(usage_naming(self.owners[owner], [r.id for r in named], tokens))
                self.uncounted.append(message)
                self.unbilled.append(message)
            case "count", ():
                for message in self.uncounted:
                    await self.house.aggregator.apply(message)
                    self.model.count(self.owners, message)
                self.uncounted.clear()
            case "bill", ():
                for message in self.unbilled:
                    await self.house.bill(message, debit=False)
                    self.model.bill(self.owners, message)
                self.unbilled.clear()
            case "debit", ():
                await self.house.desk.settling.settle_all()
                self.model.debit()
            case "cancel", (place,) if place < len(self.model.made):
                found = await self.house.cancel(self.model.made[place].id)
                self.model.made[place].end("cancelled")
                assert found is not None
                assert found.state == self.model.made[place].state
            case "wait", (seconds,):
                self.house.wait(seconds)
            case "expire", ():
                await self.house.expiry()
                self.model.expire(now)

    async def _reserve(self, asked: list[tuple[int, int, int, int, int]]) -> None:
        now = self.house.clock.at
        asks = [
            Ask(self.owners[o], requests=r, tokens=t, credits=Decimal(c), ttl_seconds=ttl) for o, r, t, c, ttl in asked
        ]
        answers = await self.house.reserve(*asks)
        for owner in {o for o, *_ in asked}:
            self.model.expire(now, owner)
        for (owner, requests, tokens, worth, ttl), answer in sorted(
            zip(asked, answers, strict=True), key=lambda both: self.owners[both[0][0]]
        ):
            reasons = self.model.why_not(owner, requests, tokens, worth)
            assert set(answer.reasons) == reasons
            assert answer.outcome == ("refused" if reasons else "reserved")
            if answer.reservation:
                self.model.made.append(
                    Modelled(answer.reservation.id, owner, requests, tokens, worth, now + timedelta(seconds=ttl))
                )

    async def compare(self) -> None:
        """What is held, and that reservations never took more than there is."""
        for place, owner in enumerate(self.owners):
            assert await self.house.held(owner) == self.model.held(place)
            assert list(await used(self.house.pool, owner)) == self.model.used[place]
        assert await self.house.held_credits(self.owners[0]) == self.model.held_credits


async def make_owners(pool: Pool) -> list[UUID]:
    """Two prepaid subscriptions of one user, ten of whose tokens cost a credit."""
    if not await pool.fetchval("SELECT EXISTS (SELECT FROM model_prices)"):
        await make_price(pool, per_1k=("10", "0", "0"))
    limits = {
        "billing_mode": "prepaid",
        "currency": "USD",
        "plan_id": "basic",
        "quota_requests": QUOTA_REQUESTS,
        "quota_tokens": QUOTA_TOKENS,
    }
    one, other = await make_subscription(pool, **limits), await make_subscription(pool, **limits)
    user = await pool.fetchval("SELECT user_id FROM subscriptions WHERE id = $1", one)
    await pool.execute("UPDATE subscriptions SET user_id = $2 WHERE id = $1", other, user)
    await pool.execute("SELECT add_user_credits($1, $2)", user, CREDITS)
    return [one, other]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=14))
async def test_holds_and_their_model_agree_on_any_history(database_pool: Pool, steps: list[tuple[Any, ...]]) -> None:
    history = History(House(database_pool), await make_owners(database_pool))
    for step in steps:
        await history.step(*step)
        await history.compare()
    for step in (("count",), ("bill",), ("debit",), ("wait", 400), ("expire",)):
        await history.step(*step)
        await history.compare()
    assert [await history.house.held(owner) for owner in history.owners] == [Held(), Held()], "nothing leaks"
    assert await history.house.held_credits(history.owners[0]) == 0


async def test_two_hundred_gateways_at_once_never_take_more_than_there_is(database: str) -> None:
    """Two API processes, two aggregators, billing and the expiry at work on one user: what is used and held together stays within
    the limits at every moment that anybody can see, and in the end nothing is held and every call is counted once."""
    pool = await create_pool(database, max_size=12)
    try:
        await Rush(pool, await make_rush(pool)).run()
    finally:
        await pool.close()


RUSH_TOKENS, RUSH_CREDITS = 3_000, Decimal(500)


async def make_rush(pool: Pool) -> list[UUID]:
    """Three prepaid subscriptions of one user that many call at once."""
    owners = await make_owners(pool)
    user = await pool.fetchval("SELECT user_id FROM subscriptions WHERE id = $1", owners[0])
    third = await make_subscription(pool, billing_mode="prepaid", currency="USD", quota_requests=150)
    await pool.execute(
        "UPDATE subscriptions SET user_id = $1, plan_id = 'enterprise', quota_requests = 250, quota_tokens = $2 WHERE id = ANY($3::uuid[])",
        user, RUSH_TOKENS, [*owners, third],
    )  # fmt: skip
    await pool.execute("SELECT add_user_credits($1, $2)", user, RUSH_CREDITS - CREDITS)
    return [*owners, third]


OVER_THE_LIMIT = """
    SELECT s.id, s.used_requests, s.used_tokens, h.open, h.requests, h.tokens, b.balance, c.credits
    FROM subscriptions s JOIN reservation_holds h ON h.subscription_id = s.id JOIN user_credits b USING (user_id) JOIN credit_holds c USING (user_id)
    WHERE s.used_requests + h.requests > s.quota_requests OR s.used_tokens + h.tokens > s.quota_tokens OR c.credits > b.balance OR h.open > 200
"""


class Rush:
    """Gateways that call, and services that count, until everybody has called."""

    def __init__(self, pool: Pool, owners: list[UUID]) -> None:
        self.house, self.owners, self.pool = House(pool), owners, pool
        self.aggregators = [self.house.aggregator, Aggregator(pool, partition=1, clock=self.house.clock)]
        self.apis = [Reserver(self.house.api, self.house.clock) for _ in range(2)]
        self.messages: asyncio.Queue[UsageRecorded] = asyncio.Queue()
        self.outcomes: Counter[str] = Counter()
        self.calls, self.tokens, self.seen = 0, 0, 0
        self.done, self.desk = asyncio.Event(), asyncio.Lock()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as services:
            for aggregator in self.aggregators:
                services.create_task(self.count(aggregator))
            services.create_task(self.look())
            services.create_task(self.expire())
            await asyncio.gather(*(self.gateway(random.Random(seed)) for seed in range(GATEWAYS)))
            await self.messages.join()
            self.done.set()
        assert self.outcomes.keys() == {"used", "cancelled", "abandoned", "refused"}
        assert self.seen > 10
        self.house.wait(10**4)
        await self.house.expiry()
        await self.house.desk.settling.settle_all()
        counted = await self.pool.fetchrow("SELECT sum(used_requests)::int, sum(used_tokens)::int FROM subscriptions")
        assert tuple(counted) == (self.calls, self.tokens)
        assert [await self.house.held(owner) for owner in self.owners] == [Held()] * 3
        assert await self.house.held_credits(self.owners[0]) == 0
        assert await self.house.differing() == []

    async def gateway(self, dice: random.Random) -> None:
        """Reserve, then call with no more than that, think better of it, or crash; four times. Who calls does so in time: usage that comes
        after its reservation has expired may go beyond the limit."""
        for _ in range(4):
            owner, tokens = dice.choice(self.owners), dice.randint(1, 60)
            fate = dice.choice(["used", "used", "cancelled", "abandoned"])
            ask = Ask(owner, tokens=tokens, credits=Decimal(tokens) / 10, ttl_seconds=86_400 if fate == "used" else 5)
            reservation = (await dice.choice(self.apis).reserve(ask)).reservation
            self.outcomes[fate if reservation else "refused"] += 1
            if reservation and fate == "used":
                used = dice.randint(0, tokens)
                self.calls, self.tokens = self.calls + 1, self.tokens + used
                self.messages.put_nowait(recorded(usage_naming(owner, [reservation.id], used)))
            elif reservation and fate == "cancelled":
                await self.house.cancel(reservation.id)

    async def count(self, aggregator: Aggregator) -> None:
        """Let an aggregator apply what comes, and billing what it has applied."""
        while not (self.done.is_set() and self.messages.empty()):
            try:
                message = await asyncio.wait_for(self.messages.get(), 0.05)
            except TimeoutError:
                continue
            await aggregator.apply(message)
            await self.bill(message)
            self.messages.task_done()

    async def bill(self, message: UsageRecorded) -> None:
        """The desk has one partition, of which it delivers one message after the other."""
        async with self.desk:
            await self.house.bill(message, debit=False)
        await self.house.desk.settling.settle_all()

    async def expire(self) -> None:
        """Let time pass, a second for each look."""
        while not self.done.is_set():
            self.house.wait(1)
            await self.house.expiry()

    async def look(self) -> None:
        """See in one snapshot after the other that used and held are within the limits. Nobody uses more than reserved, or without."""
        while not self.done.is_set():
            over = await self.pool.fetch(OVER_THE_LIMIT)
            assert over == [], over
            self.seen += 1


async def test_usage_cancellation_and_expiry_race_and_each_reservation_ends_once(database_pool: Pool) -> None:
    house, owners = House(database_pool), await make_rush(database_pool)
    other = Aggregator(database_pool, partition=1, clock=house.clock)
    for _ in range(4):
        asks = [Ask(owners[n % 2], requests=0, tokens=1, credits=Decimal(1), ttl_seconds=9) for n in range(60)]
        made = [answer.reservation.id for answer in await house.reserve(*asks) if answer.reservation]
        assert len(made) == 60
        house.wait(9)
        first, second = (
            recorded(*(usage_naming(owners[n % 2], [id_]) for n, id_ in list(enumerate(made))[part::3]))
            for part in (0, 1)
        )
        await house.announced(first)
        await house.announced(second)
        await asyncio.gather(
            house.aggregator.apply(first), other.apply(second), house.desk.deliver(second, first), house.expiry(), house.expiry(),
            *(house.cancel(id_) for id_ in made[::2]), house.reserve(Ask(owners[0], requests=0, ttl_seconds=5)),
        )  # fmt: skip
        await house.desk.settling.settle_all()
        house.wait(5)
        await house.expiry()
        assert [await house.held(owner) for owner in owners[:2]] == [Held(), Held()]
        assert await house.held_credits(owners[0]) == 0
        assert await house.differing() == []
