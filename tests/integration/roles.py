"""A pool whose connections have the rights of a service's role, beside the owner's pool by which a test makes its facts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from shared.postgres import Connection, Pool

INGEST, AGGREGATOR, BILLING = "tallystick_ingest", "tallystick_aggregator", "tallystick_billing"
API, OPERATOR, TENANT, READONLY = "tallystick_api", "tallystick_operator", "tallystick_tenant", "tallystick_readonly"


class _Acquired:
    """What `pool.acquire()` returns: awaited, or entered."""

    def __init__(self, pool: _RolePool) -> None:
        self._pool = pool

    def __await__(self) -> Any:
        return self._pool.take().__await__()

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._pool.release(self._connection)


class _RolePool:
    """As much of a pool as services use."""

    def __init__(self, pool: Pool, role: str) -> None:
        self._pool, self._role = pool, role

    def acquire(self) -> _Acquired:
        return _Acquired(self)

    async def take(self) -> Connection:
        connection = await self._pool.acquire()
        try:
            await connection.execute(f"SET ROLE {self._role}")
        except BaseException:  # cancelled: a pool gets its connection back
            await self._pool.release(connection)
            raise
        return connection

    async def release(self, connection: Connection) -> None:
        if not connection.is_closed():
            await connection.execute("RESET ROLE")
        await self._pool.release(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await self.take()
        try:
            yield connection
        finally:
            await self.release(connection)

    async def execute(self, query: str, *arguments: Any, **options: Any) -> Any:
        async with self._connection() as connection:
            return await connection.execute(query, *arguments, **options)

    async def fetch(self, query: str, *arguments: Any, **options: Any) -> Any:
        async with self._connection() as connection:
            return await connection.fetch(query, *arguments, **options)

    async def fetchrow(self, query: str, *arguments: Any, **options: Any) -> Any:
        async with self._connection() as connection:
            return await connection.fetchrow(query, *arguments, **options)

    async def fetchval(self, query: str, *arguments: Any, **options: Any) -> Any:
        async with self._connection() as connection:
            return await connection.fetchval(query, *arguments, **options)

    async def expire_connections(self) -> None:
        await self._pool.expire_connections()


def with_role(pool: Pool, role: str) -> Pool:
    """Return a view of `pool` whose statements have the rights of `role`: what a service may do, it may do here."""
    return cast("Pool", _RolePool(pool, role))
