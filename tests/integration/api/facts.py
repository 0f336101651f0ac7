"""Facts for the tests of the API: people, what they subscribe to, and credentials of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.accounts.api_keys.keys import hash_of, new_key, prefix_of
from services.api.auth.principal import Principal
from shared.clock import FixedClock
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.schema_facts import insert, make_subscription, make_user


@dataclass(frozen=True, slots=True)
class Customer:
    """Somebody with a subscription and an API key of it."""

    user_id: UUID
    subscription_id: UUID
    key_id: UUID
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def principal(self) -> Principal:
        return Principal(self.user_id, "test", frozenset({"user"}), self.subscription_id, self.key_id)


@dataclass(frozen=True, slots=True)
class Facts:
    """Makes rows, with the rights of the owner. `clock` is the application's."""

    pool: Pool
    clock: FixedClock

    async def customer(self, *roles: str, **subscription: Any) -> Customer:
        """Make a user with these roles beside `user`, a subscription and a key."""
        async with self.pool.acquire() as connection:
            user = await make_user(connection, roles=["user", *roles])
            subscription_id = await make_subscription(connection, user, **subscription)
        key_id, key = await self.key(subscription_id)
        return Customer(user, subscription_id, key_id, key)

    async def key(self, subscription_id: UUID, **columns: Any) -> tuple[UUID, str]:
        """Make an API key; return its id and the key."""
        id_, key = uuid7(), new_key()
        async with self.pool.acquire() as connection:
            await insert(
                connection, "api_keys", id=id_, subscription_id=subscription_id, key_hash=hash_of(key, ""), key_prefix=prefix_of(key), **columns
            )  # fmt: skip
        return id_, key
