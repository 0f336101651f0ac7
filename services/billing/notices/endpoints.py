"""Where webhooks go: endpoints of users or of the whole installation, added, rotated, disabled and enabled by command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from services.billing.events import EVENT_TYPES
from services.billing.notices.signing import Keyring, new_secret
from shared.contracts import BillingEvent, encode
from shared.errors import TallystickError
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.notices", "webhooks.sql")
MAX_EVENT_TYPES = 50
WEBHOOK_TEST = "tallystick.webhook.test.v1"
"""What an operator sends to try an endpoint. It goes there alone, not to billing.events."""


class EndpointRefused(TallystickError):
    """An endpoint cannot be what was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as an operator sees it: everything but its secret."""

    id: UUID
    user_id: UUID | None
    url: str
    description: str
    event_types: Sequence[str]
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    failures: int
    failing_since: datetime | None
    previous_until: datetime | None
    created_at: datetime
    created_by: str
    pending: int


async def add(
    connection: Connection,
    keys: Keyring,
    *,
    url: str,
    user_id: UUID | None,
    event_types: Sequence[str],
    description: str,
    by: str,
) -> tuple[UUID, str]:
    """Register an endpoint at a URL that `check_url` has passed; return its id and its secret, which cannot be read again.

    Raises `EndpointRefused` for an unknown user or event type.
    """
    wanted, secret, id_ = check_event_types(event_types), new_secret(), uuid7()
    try:
        await connection.execute(SQL["add_endpoint"], id_, user_id, url, description, wanted, keys.seal(secret), by)
    except asyncpg.ForeignKeyViolationError:
        raise EndpointRefused(f"there is no user {user_id}") from None
    return id_, secret


def check_event_types(patterns: Sequence[str]) -> list[str]:
    """Return patterns of event types without repetition. Raises `EndpointRefused` for one that no event has."""
    wanted = list(dict.fromkeys(pattern.strip() for pattern in patterns if pattern.strip()))
    if len(wanted) > MAX_EVENT_TYPES:
        raise EndpointRefused(f"an endpoint names at most {MAX_EVENT_TYPES} event types: use a * at the end")
    for pattern in wanted:
        stem = pattern.removesuffix("*")
        if not any(kind.startswith(stem) if pattern.endswith("*") else kind == pattern for kind in EVENT_TYPES):
            raise EndpointRefused(
                f"no event is called '{pattern}': there are {', '.join(EVENT_TYPES)}, and a * at the end of a beginning"
            )
    return wanted


async def endpoints(connection: Connection, *, user_id: UUID | None = None) -> list[Endpoint]:
    """Return all endpoints, or those of a user."""
    return [Endpoint(**row) for row in await connection.fetch(SQL["endpoints"], user_id, None)]


async def endpoint(connection: Connection, id_: UUID) -> Endpoint:
    """Return an endpoint. Raises `EndpointRefused` if there is none of this id."""
    row = await connection.fetchrow(SQL["endpoints"], None, id_)
    if row is None:
        raise EndpointRefused(f"there is no webhook endpoint {id_}: see 'tallystick webhooks list'")
    return Endpoint(**row)


async def disable(connection: Connection, id_: UUID, *, at: datetime, reason: str) -> bool:
    """Stop writing to an endpoint; return whether that changed anything."""
    return await connection.fetchval(SQL["disable_endpoint"], id_, at, reason) is not None


async def enable(connection: Connection, id_: UUID, *, at: datetime) -> None:
    """Write to an endpoint again; what waited for it is due now. Raises `EndpointRefused` if there is none of this id."""
    if await connection.fetchval(SQL["enable_endpoint"], id_) is None:
        await endpoint(connection, id_)
    await connection.execute(SQL["due_again"], id_, at)


async def ping(connection: Connection, id_: UUID, *, at: datetime) -> UUID:
    """Queue a test message for an endpoint, whatever it asked for; return the delivery. Raises `EndpointRefused` if there is none of this id."""
    message_id = str(uuid7())
    body = BillingEvent(message_id, WEBHOOK_TEST, at, str(id_), {"endpoint": str(id_)})
    delivery: UUID | None = await connection.fetchval(SQL["ping"], id_, message_id, WEBHOOK_TEST, at, encode(body))
    if delivery is None:
        raise EndpointRefused(f"there is no webhook endpoint {id_}: see 'tallystick webhooks list'")
    return delivery


async def rotate_secret(connection: Connection, keys: Keyring, id_: UUID, *, at: datetime, overlap: timedelta) -> str:
    """Give an endpoint another secret and return it; for `overlap` deliveries are signed with the one before as well."""
    secret = new_secret()
    if await connection.fetchval(SQL["rotate_secret"], id_, keys.seal(secret), at + overlap) is None:
        await endpoint(connection, id_)
    return secret


async def reseal(connection: Connection, keys: Keyring) -> int:
    """Encrypt all secrets with the first of the keys, so that the others can go; return how many endpoints that were.

    Runs in the caller's transaction. Raises `SecretUnreadable`, and changes nothing, if one cannot be decrypted.
    """
    rows = await connection.fetch(SQL["secrets"])
    for row in rows:
        previous = row["encrypted_previous_secret"]
        await connection.execute(
            SQL["reseal"], row["id"], keys.reseal(row["encrypted_secret"]), keys.reseal(previous) if previous else None
        )
    return len(rows)
