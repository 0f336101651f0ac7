"""Facts for the tests of webhooks: a worker's lane on a database, endpoints, and events as services announce them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import time_machine
from standardwebhooks import Webhook

from services.billing.events import INVOICE_ISSUED, EventType, billing_event
from services.billing.notices import deliveries, endpoints
from services.billing.notices.deliveries import Delivery
from services.billing.notices.delivering import WebhookDelivery
from services.billing.notices.retrying import Policy
from services.billing.notices.sending import Resolve, Sender, resolve
from services.billing.notices.signing import Keyring, new_key
from shared.clock import FixedClock
from shared.ids import uuid7
from shared.outbox import Outbox
from shared.postgres import Pool, create_pool, transaction
from tests.integration.roles import BILLING, with_role
from tests.webhook_receiver import Received

TIMEOUT = timedelta(seconds=5)
DICE = 0.5
NOTICES = """webhook_endpoints, webhook_messages, webhook_deliveries, webhook_attempts, billing_alerts, alert_settings, job_runs,
    billing_outbox, aggregator_outbox"""
"""The tables that notices, and jobs, write."""
STRANGER = UUID(int=7)
"""A user id that no account has: events may be about anybody."""


@dataclass(slots=True)
class Office:
    """Webhooks at work on one database. The time is the present, until it is moved on: the database queues by its own clock."""

    pool: Pool
    clock: FixedClock = field(default_factory=lambda: FixedClock(datetime.now(UTC) + timedelta(seconds=5)))
    key: str = field(default_factory=new_key)
    keys: Keyring = field(init=False)
    billing: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keyring(self.key)
        self.billing = with_role(self.pool, BILLING)

    async def add(self, url: str, *events: str, user: UUID | None = None) -> tuple[UUID, str]:
        """Register an endpoint; return its id and secret."""
        async with self.billing.acquire() as connection:
            return await endpoints.add(
                connection, self.keys, url=url, user_id=user, event_types=events, description="", by="tests"
            )

    async def make_user(self) -> UUID:
        """Store a user."""
        user = uuid7()
        await self.pool.execute("INSERT INTO users (id, email) VALUES ($1, $2)", user, f"{user.hex}@example.com")
        return user

    async def announce(
        self, *, user: UUID = STRANGER, kind: EventType = INVOICE_ISSUED, data: dict[str, Any] | None = None
    ) -> str:
        """Announce an event as billing does; return its id."""
        message = billing_event(kind, user, self.clock.now(), data or {"number": "INV-2026-000001"})
        async with transaction(self.billing) as connection:
            await Outbox("billing_outbox").enqueue(connection, [message])
        return str(message.id)

    def worker(self, *, policy: Policy | None = None, resolving: Resolve = resolve, **options: Any) -> WebhookDelivery:
        """Return the lane of one worker, with the rights of its role."""
        timeout = options.pop("timeout", TIMEOUT)
        sender = Sender(
            timeout=timeout,
            allow_private=options.pop("allow_private", True),
            resolve=resolving,
            tls=options.pop("tls", None),
        )
        return WebhookDelivery(
            self.billing,
            self.clock,
            Outbox("billing_outbox"),
            sender,
            options.pop("keys", self.keys),
            policy or Policy(),
            timeout,
            poll=timedelta(milliseconds=20),
            dice=lambda: DICE,
            **options,
        )

    async def log(self, **which: Any) -> list[Delivery]:
        """Return the delivery log, oldest first."""
        async with self.billing.acquire() as connection:
            return (await deliveries.deliveries(connection, limit=1000, **which))[::-1]

    async def outcomes(self) -> list[str | None]:
        """Return what the attempts came to, in their order."""
        rows = await self.pool.fetch("SELECT outcome FROM webhook_attempts ORDER BY started_at, delivery_id, attempt")
        return [row["outcome"] for row in rows]


@asynccontextmanager
async def an_office(database: str) -> AsyncIterator[Office]:
    """Empty what notices write, and open an office there: cheaper than a database for each test."""
    pool = await create_pool(database, application_name="tests")
    await pool.execute(f"TRUNCATE {NOTICES}")
    yield Office(pool)
    await pool.close()


def verify(secret: str, request: Received) -> Any:
    """Let the official library judge a request as of the time that it says it was sent at; return the event."""
    sent_at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    with time_machine.travel(sent_at, tick=False):
        return Webhook(secret).verify(request.body, request.headers)
