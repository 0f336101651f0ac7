"""The customers of `tallystick seed --test-data` (pure): who they are, what they subscribe to, what they have prepaid.

All of it follows from one number. Ids are UUIDv5 of that number and a name, so that seeding twice makes nothing twice.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID, uuid5

from deploy.seed_prices import NAMESPACE, models
from shared.period import month_start


class User(NamedTuple):
    """A row of `users`, in the order of its insert. Nobody has a password: they come through OAuth."""

    id: UUID
    username: str
    email: str
    full_name: str
    oauth_id: str
    roles: str
    tier: str
    created_at: datetime


class Subscription(NamedTuple):
    """A row of `subscriptions`, in the order of its insert; fee, currency and quotas of a plan come from the plan."""

    id: UUID
    user_id: UUID
    model_id: str | None
    plan_id: str | None
    status: str
    billing_mode: str
    currency: str
    quota_requests: int | None
    quota_tokens: int | None
    created_at: datetime


class Account(NamedTuple):
    """A row of `user_credits` of a prepaid customer, and the credits that it begins with."""

    user_id: UUID
    tier: str
    monthly_allowance: Decimal
    low_balance_threshold: Decimal
    first_credits: Decimal


@dataclass(frozen=True, slots=True)
class Customers:
    """Users, their subscriptions, and the accounts of those who prepay."""

    users: list[User]
    subscriptions: list[Subscription]
    accounts: list[Account]


FIRST_NAMES: Final = (
    "Ada",
    "Alan",
    "Barbara",
    "Dennis",
    "Edsger",
    "Frances",
    "Grace",
    "Hedy",
    "Ivan",
    "Jean",
    "Leslie",
)
LAST_NAMES: Final = ("Lovelace", "Turing", "Liskov", "Ritchie", "Dijkstra", "Allen", "Hopper", "Lamarr", "Bartik")
QUOTAS: Final[tuple[tuple[int | None, int | None], ...]] = (
    (None, None), (None, None), (None, None), (1_000_000, 1_000_000_000), (1_000_000, None),
    (200, None), (None, 60_000), (500, 250_000),
)  # fmt: skip
"""Requests and tokens per month: unlimited, ample, and so small that traffic exceeds them."""
STATUSES: Final = ("active",) * 22 + ("trialing", "paused", "pending", "cancelled", "expired")
FIRST_CREDITS: Final = tuple(Decimal(c) for c in ("0", "0.25", "1", "100", "250", "500", "1000", "5000"))
"""Nothing, next to nothing, and enough."""
PREPAID_SHARE: Final = 0.4
PLAN_SHARE: Final = 0.25

Offer = tuple[str | None, str | None]
MODEL_OFFERS: Final[tuple[Offer, ...]] = tuple((model.id, None) for model in models())
PLAN_OFFERS: Final[tuple[Offer, ...]] = tuple((None, plan) for plan in ("free", "basic", "premium", "enterprise"))
OFFERS: Final = (*MODEL_OFFERS, *PLAN_OFFERS)


def customers(seed: int, users: int, subscriptions: int, now: datetime) -> Customers:
    """Return `users` users, who joined a month before `now`, with `subscriptions` subscriptions between them.

    The first user is an administrator. Nobody has two subscriptions to one model or plan; raises `ValueError` for more
    subscriptions than that allows.
    """
    if subscriptions > users * len(OFFERS):
        raise ValueError(f"{users} users can have at most {users * len(OFFERS)} subscriptions, not {subscriptions}")
    rng = random.Random(seed)  # noqa: S311 (test data)
    joined = month_start(month_start(now) - timedelta(days=1))
    people = [_user(rng, seed, number, joined) for number in range(users)]
    prepaid = {user.id for user in people if rng.random() < PREPAID_SHARE}
    return Customers(
        people,
        [
            _subscription(rng, uuid5(NAMESPACE, f"{seed}/subscription/{number}"), user, offer, user.id in prepaid)
            for number, (user, offer) in enumerate(_sales(rng, people, subscriptions))
        ],
        [_account(rng, user) for user in people if user.id in prepaid],
    )


def _user(rng: random.Random, seed: int, number: int, joined: datetime) -> User:
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    username = f"{first}.{last}.{seed}-{number:03d}".lower()
    tier = rng.choice(("free", "free", "pro", "enterprise"))
    return User(
        uuid5(NAMESPACE, f"{seed}/user/{number}"), username, f"{username}@example.com", f"{first} {last}",
        f"oauth-{seed}-{number}", "user,admin" if number == 0 else "user", tier, joined,
    )  # fmt: skip


def _sales(rng: random.Random, people: Collection[User], count: int) -> Iterator[tuple[User, Offer]]:
    """Yield who buys what: everybody once before anybody twice."""
    buyers = list(people)
    taken: set[tuple[UUID, Offer]] = set()
    for number in range(count):
        user = buyers[number] if number < len(buyers) else rng.choice(buyers)
        offer = rng.choice(PLAN_OFFERS if rng.random() < PLAN_SHARE else MODEL_OFFERS)
        while (user.id, offer) in taken:
            user, offer = rng.choice(buyers), rng.choice(OFFERS)
        taken.add((user.id, offer))
        yield user, offer


def _subscription(rng: random.Random, id_: UUID, user: User, offer: Offer, prepaid: bool) -> Subscription:
    currency = "EUR" if user.id.int % 5 == 0 else "USD"
    mode = "prepaid" if prepaid else "postpaid"
    return Subscription(
        id_, user.id, *offer, rng.choice(STATUSES), mode, currency, *rng.choice(QUOTAS), user.created_at
    )


def _account(rng: random.Random, user: User) -> Account:
    tier = rng.choice(("trial", "starter", "professional", "enterprise"))
    allowance = Decimal(rng.choice((0, 50, 100, 500)))
    return Account(user.id, tier, allowance, Decimal(5), rng.choice(FIRST_CREDITS))
