"""What an administrator does to users, each function in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.accounts import passwords
from shared.errors import NotFound, TallystickError
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.accounts.users")

ROLES: Final = ("user", "admin", "finance", "service")


class UserRefused(TallystickError):
    """A user cannot be made, or changed, like this."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The user that is asked for. With neither a password nor a subject at an identity provider they cannot log in (yet)."""

    email: str
    full_name: str | None = None
    roles: Collection[str] = ()
    password: str | None = None
    provider: str | None = None
    subject: str | None = None
    subscription_tier: str = "free"


@dataclass(frozen=True, slots=True)
class User:
    """A user as lists show them."""

    id: UUID
    email: str
    full_name: str | None
    roles: list[str]
    is_active: bool
    has_password: bool
    oauth_provider: str | None
    oauth_id: str | None
    last_login_at: datetime | None


async def add_user(connection: Connection, wish: Wish) -> UUID:
    """Make a user; return the id. Raises `UserRefused`, and `PasswordRefused`."""
    roles = checked_roles({"user", *wish.roles})
    if (wish.provider is None) != (wish.subject is None):
        raise UserRefused("give both the identity provider and the subject there, or neither")
    if wish.password is not None:
        passwords.check_new(wish.password, wish.email)
    taken = await connection.fetchrow(_SQL["user_taken"], wish.email, wish.provider, wish.subject)
    if taken["email"]:
        raise UserRefused(f"there is a user {wish.email} already")
    if taken["subject"]:
        raise UserRefused(f"'{wish.subject}' at {wish.provider} is another user already")
    hashed, id_ = passwords.hash_password(wish.password) if wish.password is not None else None, uuid7()
    try:
        await connection.execute(
            _SQL["make_user"],
            id_,
            wish.email,
            wish.full_name,
            roles,
            hashed,
            wish.provider,
            wish.subject,
            wish.subscription_tier,
        )
    except asyncpg.CheckViolationError as error:
        if error.constraint_name != "valid_email":
            raise
        raise UserRefused(f"'{wish.email}' is not an e-mail address") from None
    return id_


async def set_password(connection: Connection, user_id: UUID, email: str, password: str) -> None:
    """Give a user a new password, and end their sessions. Raises `PasswordRefused`, and `NotFound`."""
    passwords.check_new(password, email)
    if await connection.fetchval(_SQL["set_password"], user_id, passwords.hash_password(password)) is None:
        raise NotFound(f"there is no user {user_id}")
    await connection.execute(_SQL["end_sessions"], user_id)


async def change_roles(
    connection: Connection, user_id: UUID, *, add: Collection[str] = (), remove: Collection[str] = ()
) -> list[str]:
    """Add and take away roles; return those that the user has then. Tokens of an identity provider from before are stale.

    Raises `UserRefused`, also where no administrator would be left, and `NotFound`.
    """
    before = await connection.fetchval(_SQL["lock_roles"], user_id)
    if before is None:
        raise NotFound(f"there is no user {user_id}")
    if "user" in remove:
        raise UserRefused("everybody is a user: deactivate who shall not be one")
    roles = checked_roles({*before, *add} - set(checked_roles(remove)))
    if "admin" not in roles:
        await _leave_an_administrator(connection, user_id)
    if roles != checked_roles(before):
        await connection.execute(_SQL["set_roles"], user_id, roles)
    return roles


async def set_active(connection: Connection, user_id: UUID, *, active: bool) -> bool:
    """Let a user use the API, or not any more, with no session and no key; return whether that is a change.

    Raises `UserRefused` where no administrator would be left.
    """
    if not active:
        await _leave_an_administrator(connection, user_id)
    changed = await connection.fetchval(_SQL["set_active"], user_id, active) is not None
    if not active:
        await connection.execute(_SQL["end_sessions"], user_id)
    return changed


async def change_account(connection: Connection, user_id: UUID, changes: Mapping[str, Any]) -> None:
    """Change what is given of email, full_name, email_verified and subscription_tier. Raises `UserRefused`, and `NotFound`."""
    row = await connection.fetchrow(_SQL["lock_account"], user_id)
    if row is None:
        raise NotFound(f"there is no user {user_id}, or not any more")
    wanted = {**row, **changes}
    if wanted["email"].lower() != row["email"].lower():
        taken = await connection.fetchrow(_SQL["user_taken"], wanted["email"], None, None)
        if taken["email"]:
            raise UserRefused(f"there is a user {wanted['email']} already")
    try:
        await connection.execute(_SQL["change_account"], user_id, *wanted.values())
    except asyncpg.CheckViolationError as error:
        if error.constraint_name != "valid_email":
            raise
        raise UserRefused(f"'{wanted['email']}' is not an e-mail address") from None


async def anonymise(connection: Connection, user_id: UUID) -> None:
    """Erase who a user was, for good: usage, ledger and invoices stay.

    Raises `UserRefused` while a subscription has not ended and where no administrator would be left, and `NotFound`.
    """
    if await connection.fetchval(_SQL["lock_roles"], user_id) is None:
        raise NotFound(f"there is no user {user_id}")
    await _leave_an_administrator(connection, user_id)
    try:
        async with connection.transaction():
            await connection.execute(_SQL["anonymise"], user_id)
    except asyncpg.PostgresError as error:
        if error.sqlstate != "TS012":
            raise
        raise UserRefused(f"{error}: cancel them first") from error


async def _leave_an_administrator(connection: Connection, user_id: UUID) -> None:
    if await connection.fetchval(_SQL["is_last_administrator"], user_id):
        raise UserRefused(f"{user_id} is the only active administrator: make another one first")


async def link_user(connection: Connection, user_id: UUID, provider: str, subject: str) -> None:
    """Let a user log in as who an identity provider calls `subject`. Raises `UserRefused`."""
    try:
        await connection.execute(_SQL["link_user"], user_id, provider, subject)
    except asyncpg.UniqueViolationError:
        raise UserRefused(f"'{subject}' at {provider} is another user already") from None


async def list_users(connection: Connection, *, role: str | None = None, limit: int = 1_000) -> list[User]:
    """Return users by their address."""
    return [User(**dict(row)) for row in await connection.fetch(_SQL["list_users"], role, limit)]


def checked_roles(roles: Collection[str]) -> list[str]:
    """Return roles in their order. Raises `UserRefused` for one that there is not."""
    if unknown := sorted(set(roles) - set(ROLES)):
        raise UserRefused(f"there is no role '{unknown[0]}': roles are {', '.join(ROLES)}")
    return [role for role in ROLES if role in roles]
