"""What capabilities need that make transactions of their own: a pool with the rights of their role, the settings of their service.

Most of what a request does is one transaction of `database`. Payments ask a provider between two of theirs, jobs and replays make many.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from services.api.background import Background
from services.api.database import Role
from services.api.settings import Settings
from services.billing.payments.providers import Providers
from services.billing.settings import Settings as BillingSettings
from services.ingest.settings import Settings as IngestSettings
from shared.postgres import NO_ROLE, Pool, create_pool, role_to_take
from shared.settings import load

CONNECTIONS: Final = 4
"""Most connections of the pool of one role: a job holds one for its lock beside those that it works with."""


@dataclass
class Capabilities:
    """Opened when they are first asked for. The settings are those of the environment, as the workers have them."""

    settings: Settings
    background: Background = field(default_factory=Background)
    _pools: dict[Role, Pool] = field(default_factory=dict)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    @cached_property
    def billing(self) -> BillingSettings:
        """Billing's settings. Raises `ConfigurationError`."""
        return load(BillingSettings, database_url=self.settings.database_url, kafka_bootstrap_servers="")

    @cached_property
    def ingest(self) -> IngestSettings:
        """Ingest's settings: what it accepts. Raises `ConfigurationError`."""
        return load(IngestSettings, database_url=self.settings.database_url, kafka_bootstrap_servers="")

    @cached_property
    def providers(self) -> Providers:
        """Who takes payments."""
        return Providers(self.billing)

    async def pool(self, role: Role) -> Pool:
        """Return a pool with the rights of a role. Raises `ServiceUnavailable`."""
        async with self._opening:
            if role not in self._pools:
                url, own = self.settings.database_url, self.settings.database_role == NO_ROLE
                taken, _ = await role_to_take(url, NO_ROLE if own else "", role)
                self._pools[role] = await create_pool(
                    url, max_size=CONNECTIONS, application_name="tallystick-api", role=taken
                )
            return self._pools[role]

    async def close(self) -> None:
        """End what still goes on, and close what was opened."""
        await self.background.close()
        for pool in self._pools.values():
            await pool.close()
