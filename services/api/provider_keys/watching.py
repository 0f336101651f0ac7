"""Looks every hour whether all stored keys at providers can still be read: a secret that was taken away too early shows at once."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from services.accounts.provider_keys.keyring import Keyring
from services.accounts.provider_keys.reencryption import count_unreadable
from services.accounts.settings import AccountSettings
from services.api import metrics
from services.api.state import State

log = structlog.get_logger("api.provider_keys")

EVERY_SECONDS: Final = 3600.0


def keyring_of(settings: AccountSettings) -> Keyring | None:
    """Return the secrets, None where none is set. Raises `ConfigurationError` for what is none."""
    secrets = settings.provider_key_secrets.get_secret_value()
    return Keyring(secrets) if secrets.strip() else None


async def watch_provider_keys(state: State) -> None:
    """Keep the metric current, until it is cancelled."""
    while True:
        try:
            await look(state)
        except Exception as error:
            log.warning("provider_keys_not_looked_at", error=repr(error))
        await asyncio.sleep(EVERY_SECONDS)


async def look(state: State) -> int:
    """Count the keys that cannot be read, for the metric."""
    async with state.database.pool.acquire() as connection:
        count = await count_unreadable(connection, state.provider_keyring)
    metrics.UNREADABLE_PROVIDER_KEYS.set(count)
    if count:
        log.error("provider_keys_unreadable", count=count)
    return count
