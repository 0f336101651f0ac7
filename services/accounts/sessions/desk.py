"""Logins of local users: begun with a password, refreshed, ended. Each operation is a transaction of its own."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from services.accounts import passwords
from services.accounts.sessions.tokens import (
    MOST_ATTEMPTS,
    WINDOW,
    Pair,
    hash_of,
    judge,
    new_pair,
    subject_of,
    wait_for,
)
from shared.clock import Clock
from shared.errors import TallystickError
from shared.ids import uuid7
from shared.postgres import Connection, Pool, transaction
from shared.sql import Queries

log = structlog.get_logger("accounts.sessions")
_SQL = Queries.load("services.accounts.sessions")

VERIFYING_AT_ONCE: Final = 4
"""Passwords that are compared side by side: each takes 64 MiB for about 50 ms."""


class LoginRefused(TallystickError):
    """The address or the password is wrong, or the user may not log in: it is not said which."""


class TooManyAttempts(TallystickError):
    """There were too many attempts to log in."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("there were too many attempts to log in: try again later")
        self.wait = wait


class SessionOver(TallystickError):
    """A refresh token is not valid, or not any more: log in again."""

    def __init__(self) -> None:
        super().__init__("this session is over: log in again")


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody asks from."""

    address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """Whom an access token stands for."""

    family: UUID
    user_id: UUID
    username: str
    roles: frozenset[str]


@dataclass(slots=True)
class Sessions:
    """The logins of a database. An access token is valid for `access`; a login for `whole`, however often it is refreshed."""

    pool: Pool
    clock: Clock
    access: timedelta
    whole: timedelta
    _verifying: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(VERIFYING_AT_ONCE))

    async def login(self, email: str, password: str, place: Place) -> Pair:
        """Begin a session. Raises `LoginRefused` and `TooManyAttempts`.

        An attempt is counted before the password is looked at, so that many at once are not more than one after the other.
        """
        now, account = self.clock.now(), subject_of(email)
        await self._count_attempt("address", place.address or "unknown", now)
        await self._count_attempt("account", account, now)
        user = await self.pool.fetchrow(_SQL["user_by_email"], email.strip())
        stored = user["password_hash"] if user else None
        if not await self._in_thread(passwords.matches, password, stored):
            await self._fail(user, place, now)
            raise LoginRefused("the e-mail address or the password is wrong")
        renewed = (
            await self._in_thread(passwords.hash_password, password) if passwords.is_outdated(stored or "") else None
        )
        async with transaction(self.pool) as connection:
            await connection.execute(_SQL["act_as"], str(user["id"]), user["username"])
            await connection.execute(_SQL["forget_attempts"], account, place.address or "unknown")
            if renewed:
                await connection.execute(_SQL["renew_password_hash"], user["id"], renewed, stored)
            await connection.execute(_SQL["logged_in"], user["id"], now)
            await connection.execute(_SQL["forget_expired"], user["id"], now)
            await _note(connection, user["id"], "login", place, now)
            return await self._begin(connection, user["id"], uuid7(), now, logged_in_at=now, place=place)

    async def vouch_for(self, user_id: UUID) -> Pair:
        """Begin a session for somebody without a password, with the word of who has the database: its refresh token signs in once."""
        now, place = self.clock.now(), Place(None, "a link of the demo")
        async with transaction(self.pool) as connection:
            await connection.execute(_SQL["act_as"], str(user_id), "tallystick demo")
            await _note(connection, user_id, "login", place, now)
            return await self._begin(connection, user_id, uuid7(), now, logged_in_at=now, place=place)

    async def refresh(self, token: str, place: Place) -> Pair:
        """Exchange a refresh token for a new pair. Raises `SessionOver`; for one that was exchanged before, the whole login is over as well."""
        now = self.clock.now()
        async with transaction(self.pool) as connection:
            row = await connection.fetchrow(_SQL["lock_session"], hash_of(token))
            verdict = judge(now, row["expires_at"], row["used_at"]) if row else "expired"
            if row and verdict == "valid" and row["is_active"]:
                await connection.execute(_SQL["use_session"], row["id"], now)
                return await self._begin(
                    connection, row["user_id"], row["family"], now, logged_in_at=row["logged_in_at"], place=place
                )
            if row and verdict == "stolen":  # committed: who is refused keeps nothing
                log.warning("refresh_token_came_again", user_id=str(row["user_id"]))
                await connection.execute(_SQL["end_family"], row["family"])
                await _note(connection, row["user_id"], "session_revoked", place, now)
        raise SessionOver

    async def recognise(self, token: str) -> Session | None:
        """Return whom an access token stands for; None if it is none, has expired, or its login is over."""
        row = await self.pool.fetchrow(_SQL["session_by_access_token"], hash_of(token), self.clock.now(), timeout=3)
        return Session(row["family"], row["user_id"], row["username"], frozenset(row["roles"])) if row else None

    async def logout(self, user_id: UUID, family: UUID | None, place: Place) -> None:
        """End a login; None: all of the user's."""
        async with transaction(self.pool) as connection:
            if family:
                await connection.execute(_SQL["end_family"], family)
            else:
                await connection.execute(_SQL["end_all"], user_id)
            await _note(connection, user_id, "logout" if family else "logout_everywhere", place, self.clock.now())

    async def _count_attempt(self, kind: str, subject: str, now: datetime) -> None:
        row = await self.pool.fetchrow(_SQL["count_attempt"], kind, subject, now, WINDOW)
        if wait := wait_for(now, row["attempts"], row["window_start"], MOST_ATTEMPTS[kind]):
            log.warning("too_many_logins", kind=kind)
            raise TooManyAttempts(wait)

    async def _fail(self, user: Any, place: Place, now: datetime) -> None:
        async with transaction(self.pool) as connection:
            await connection.execute(_SQL["forget_old_attempts"], now - WINDOW)
            if user:
                await _note(connection, user["id"], "login_failed", place, now)

    async def _begin(
        self,
        connection: Connection,
        user_id: UUID,
        family: UUID,
        now: datetime,
        *,
        logged_in_at: datetime,
        place: Place,
    ) -> Pair:
        pair = new_pair(now, logged_in_at, access=self.access, whole=self.whole)
        await connection.execute(
            _SQL["begin_session"], uuid7(), user_id, family, hash_of(pair.access_token), hash_of(pair.refresh_token),
            pair.access_expires_at, pair.expires_at, now, logged_in_at, place.address, place.user_agent,
        )  # fmt: skip
        return pair

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        async with self._verifying:
            return await asyncio.to_thread(work, *arguments)


async def _note(connection: Connection, user_id: UUID, action: str, place: Place, now: datetime) -> None:
    data = {"address": place.address, "user_agent": place.user_agent}
    await connection.execute(_SQL["note_activity"], user_id, action, json.dumps(data), now)
