"""Transactions of requests: each has the rights of one role, and row-level security knows for whom it reads.

The API's login is a member of the roles; a transaction takes one with SET LOCAL, so that nothing outlives it, behind a connection
pooler as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from services.api.auth.principal import Principal
from services.api.caller import CALLER
from shared.postgres import Connection, Pool, transaction
from shared.sql import Queries

_SQL = Queries.load("services.api")

Role = Literal[
    "tallystick_api", "tallystick_billing", "tallystick_ingest", "tallystick_aggregator", "tallystick_operator", "tallystick_tenant",
    "tallystick_readonly",
]  # fmt: skip

TENANT: Final = "tallystick_tenant"
READER: Final = "tallystick_readonly"
OPERATOR: Final = "tallystick_operator"
BILLING: Final = "tallystick_billing"
INGEST: Final = "tallystick_ingest"


@dataclass(frozen=True, slots=True)
class Database:
    """The API's way to Postgres. `pool` logs in as `tallystick_api`; a statement that reads may take so many `seconds`."""

    pool: Pool
    seconds: float = 30.0

    @asynccontextmanager
    async def reading(self, principal: Principal) -> AsyncIterator[Connection]:
        """A snapshot of what `principal` may see: its own, by row-level security; everything but secrets for who reads all."""
        async with transaction(self.pool, isolation="repeatable_read", readonly=True) as connection:
            milliseconds = str(int(self.seconds * 1000))
            await connection.execute(_SQL["read_as"], _role_of(principal), str(principal.user_id), milliseconds)
            yield connection

    async def see_all(self, connection: Connection) -> None:
        """Let the rest of a snapshot see what the reading role sees: for a capability that reads beside what a tenant may.

        Only after `principal` was seen to own what it asks about, in the same transaction.
        """
        await connection.execute(_SQL["see_all"], READER)

    @asynccontextmanager
    async def seeing_order(self, connection: Connection, principal: Principal) -> AsyncIterator[None]:
        """Let a snapshot see for a while what the reading role sees, in an order that an index gives where there is one.

        For what tells nothing of rows that are not the principal's: its rows themselves are read afterwards, with its own rights.
        """
        await connection.execute(_SQL["see_in_order"], READER, "off")
        yield
        await connection.execute(_SQL["see_in_order"], _role_of(principal), "on")

    @asynccontextmanager
    async def writing(
        self, principal: Principal, *, role: Role = "tallystick_api", why: str = ""
    ) -> AsyncIterator[Connection]:
        """A transaction with the rights of a service's role; the audit trail names `principal` in it. Who may do what, the caller has checked."""
        async with transaction(self.pool) as connection:
            caller = CALLER.get()
            await connection.execute(
                _SQL["write_as"],
                *(role, principal.name, why, str(principal.user_id)),
                *(caller.address, caller.user_agent, caller.request_id),
            )
            yield connection

    @asynccontextmanager
    async def operating(self, principal: Principal, why: str = "") -> AsyncIterator[Connection]:
        """A transaction of an operator: for what administrators do, and finance and gateways do to credits."""
        async with self.writing(principal, role=OPERATOR, why=why) as connection:
            yield connection


def _role_of(principal: Principal) -> Role:
    """Return the role that somebody reads with."""
    return READER if principal.reads_all else TENANT
