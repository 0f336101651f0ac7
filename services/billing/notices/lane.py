"""How a billing worker delivers webhooks: wired from its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from services.billing.notices import endpoints
from services.billing.notices.delivering import WebhookDelivery
from services.billing.notices.retrying import Policy
from services.billing.notices.sending import Sender
from services.billing.notices.settings import NoticeSettings
from services.billing.notices.signing import keyring
from shared.clock import Clock
from shared.outbox import Outbox
from shared.postgres import Pool

log = structlog.get_logger("billing.webhooks")


def webhook_lane(settings: NoticeSettings, pool: Pool, clock: Clock, outbox: Outbox) -> Callable[[], Awaitable[None]]:
    """Return the background work that delivers webhooks; without a key for their secrets, one that says so where there are any.

    Raises `ConfigurationError` for a key that is none.
    """
    keys = keyring(settings)
    if keys is None:
        return _Keyless(pool)
    timeout = timedelta(seconds=settings.billing_webhook_timeout_seconds)
    return WebhookDelivery(
        pool,
        clock,
        outbox,
        Sender(timeout=timeout, allow_private=settings.billing_webhook_allow_private),
        keys,
        Policy(settings.billing_webhook_attempts, timedelta(hours=settings.billing_webhook_disable_hours)),
        timeout,
        concurrency=settings.billing_webhook_concurrency,
        poll=timedelta(seconds=settings.billing_webhook_seconds),
    )


@dataclass(slots=True)
class _Keyless:
    """Says once that there are endpoints and no key."""

    pool: Pool
    _said: bool = False

    async def __call__(self) -> None:
        if self._said:
            return
        async with self.pool.acquire() as connection:
            if await endpoints.endpoints(connection):
                self._said = True
                log.error(
                    "webhooks_without_key",
                    then="nothing is delivered until TALLYSTICK_BILLING_WEBHOOK_KEYS holds the key of their secrets",
                )
