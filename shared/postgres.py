"""Postgres: the pool and the transaction that everything runs in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any, Final, TypeAlias

import asyncpg

from shared.errors import ConfigurationError, ServiceUnavailable
from shared.metrics import DATABASE_CONNECTIONS, DATABASE_CONNECTIONS_MOST, DATABASE_WAIT

Connection: TypeAlias = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Pool: TypeAlias = asyncpg.Pool

UNREACHABLE = (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched)
"""What connecting raises: nobody there, a refusal by the server, a wrong address, a server that is no primary."""
DEMOTED = (asyncpg.ReadOnlySQLTransactionError, asyncpg.AdminShutdownError)
"""What a session says whose server stopped being the primary: the pool's other sessions are with the same one."""

_open: Final[list[Pool]] = []
"""The pools of this process, for the metrics: more than one only in the API, which has one for each role that it takes."""

NO_ROLE = "none"
"""In place of a role: the login's own rights, and no word about roles to the server (a connection pooler may not take it)."""
_ROLE_REFUSED = (
    asyncpg.InvalidParameterValueError,  # there is no such role
    asyncpg.UndefinedObjectError,
    asyncpg.InsufficientPrivilegeError,  # the login may not act as it
    asyncpg.ProtocolViolationError,  # a connection pooler does not pass it on
)


async def create_pool(
    dsn: str,
    *,
    min_size: int = 1,
    max_size: int = 8,
    application_name: str = "tallystick",
    role: str | None = None,
) -> Pool:
    """Open a connection pool that stays with the primary. Raises `ServiceUnavailable` that says what to check.

    `target_session_attrs=primary` keeps it away from a demoted server. Sessions think in UTC, act with the rights of `role` instead of
    the login's, and a statement that waits for a lock gives up after 30 s instead of holding its partition for ever.
    """
    try:
        pool = await asyncpg.create_pool(
            dsn,
            min_size=min_size,
            max_size=max_size,
            command_timeout=120,
            target_session_attrs="primary",
            server_settings=_session(application_name, role) | {"lock_timeout": "30s"},
        )
    except UNREACHABLE as error:
        raise unavailable(dsn, error) from error
    _open.append(pool)
    return pool


def _pools() -> list[Pool]:
    _open[:] = [pool for pool in _open if not pool.is_closing()]
    return _open


DATABASE_CONNECTIONS.labels("in_use").set_function(lambda: sum(p.get_size() - p.get_idle_size() for p in _pools()))
DATABASE_CONNECTIONS.labels("idle").set_function(lambda: sum(p.get_idle_size() for p in _pools()))
DATABASE_CONNECTIONS_MOST.set_function(lambda: sum(p.get_max_size() for p in _pools()))


async def connect(dsn: str, *, application_name: str = "tallystick", role: str | None = None) -> asyncpg.Connection:
    """Open one connection, with the rights of `role` instead of the login's. Raises `ServiceUnavailable` that says what to check."""
    try:
        return await asyncpg.connect(dsn, server_settings=_session(application_name, role))
    except UNREACHABLE as error:
        raise unavailable(dsn, error) from error


def _session(application_name: str, role: str | None) -> dict[str, str]:
    return {"application_name": application_name, "TimeZone": "UTC"} | ({"role": role} if role else {})


async def role_to_take(dsn: str, wanted: str, default: str) -> tuple[str | None, str]:
    """Return the role to act as, or None and why the login's own rights are all there is.

    `wanted` is what a person has set: a role, `none`, or nothing; then it is `default`, if the database has it and lets us. Raises
    `ConfigurationError` when a role that a person asked for cannot be taken, and `ServiceUnavailable`.
    """
    if wanted == NO_ROLE:
        return None, "it was told to"
    role = wanted or default
    problem = await _why_not(dsn, role)
    if problem and wanted:
        raise ConfigurationError(
            f"TALLYSTICK_DATABASE_ROLE: cannot act as {role} ({problem}): run 'tallystick migrate', "
            f"grant the role to the login, or set it to {NO_ROLE}"
        )
    return (None, problem) if problem else (role, "")


async def _why_not(dsn: str, role: str) -> str:
    """Try a connection with the role; return what is wrong with it, or nothing."""
    try:
        connection = await asyncpg.connect(dsn, server_settings=_session("tallystick-role", role))
    except _ROLE_REFUSED as error:
        return str(error)
    except UNREACHABLE as error:
        raise unavailable(dsn, error) from error
    try:
        if await connection.fetchval("SELECT current_user") != role:
            return "a connection pooler did not pass it on"
        if await connection.fetchval("SELECT has_any_column_privilege(to_regclass('subscriptions'), 'SELECT')"):
            return ""
        return f"{role} has no rights in this database"
    finally:
        await connection.close()


def unavailable(dsn: str, error: BaseException) -> ServiceUnavailable:
    """Return the error that a person sees when `dsn` does not answer; the password is left out."""
    place = dsn.rsplit("@", 1)[-1] if "@" in dsn else dsn.split("://", 1)[-1]
    place = re.sub(r"(password=)[^&]*", r"\1…", place)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ServiceUnavailable(
        f"Postgres does not answer at {place} ({reason}): check DATABASE_URL, or start one with 'tallystick local up'"
    )


@asynccontextmanager
async def transaction(pool: Pool, **options: Any) -> AsyncIterator[Connection]:
    """Run a block in one transaction on a connection of its own: it commits whole or not at all.

    A connection that broke inside the block raises from the block, not from the clean-up (asyncpg's `Transaction`
    would raise `InterfaceError` on exit and hide the cause), and never returns to the pool half-used. A server that is no
    primary any more costs the pool all its sessions: the next ones go to the new primary.
    """
    began = perf_counter()
    connection = await pool.acquire()
    DATABASE_WAIT.observe(perf_counter() - began)
    try:
        tx = connection.transaction(**options)
        await tx.start()
        try:
            yield connection
        except BaseException:
            try:
                if not connection.is_closed():
                    await tx.rollback()
            except (asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                with suppress(asyncpg.InterfaceError):  # the pool has taken it back already: its server ended it
                    connection.terminate()
            raise
        await tx.commit()
    except DEMOTED:
        await pool.expire_connections()
        raise
    finally:
        await asyncio.shield(pool.release(connection))
