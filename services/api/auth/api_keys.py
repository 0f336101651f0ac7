"""Recognises API keys, from memory for a moment, and for longer while Postgres does not answer."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import asyncpg
import structlog

from services.accounts.api_keys.keys import matches, prefix_of
from services.api import metrics
from services.api.auth.principal import Principal
from shared.clock import Clock
from shared.postgres import UNREACHABLE, Pool
from shared.sql import Queries

log = structlog.get_logger("api.auth")
_SQL = Queries.load("services.api.auth")

REMEMBERED: Final = 20_000
"""Most credentials that are kept in memory."""


@dataclass(slots=True)
class ApiKeys:
    """The API keys of a database. `fresh` is how long one is not looked up again, `stale` how long without a database."""

    pool: Pool
    clock: Clock
    pepper: str
    fresh: timedelta
    stale: timedelta
    _seen: OrderedDict[bytes, tuple[datetime, Principal | None]] = field(default_factory=OrderedDict)

    async def recognise(self, key: str) -> Principal | None:
        """Return whom a key stands for; None if it is none of ours, revoked or expired. Raises what a database that is away raises."""
        now, digest = self.clock.now(), hashlib.sha256(key.encode()).digest()
        known = self._seen.get(digest)
        if known and now - known[0] < self.fresh:
            return known[1]
        try:
            found = await self._look_up(key, now)
        except (*UNREACHABLE, asyncpg.InterfaceError) as error:
            if known is None or known[1] is None or now - known[0] > self.stale:
                raise
            log.warning("key_recognised_from_memory", error=repr(error))
            metrics.STALE_CREDENTIALS.inc()
            return known[1]
        self._seen[digest] = (now, found)
        self._seen.move_to_end(digest)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return found

    def remembers(self, key: str) -> bool:
        """Tell whether a key was recognised before and is still in memory."""
        known = self._seen.get(hashlib.sha256(key.encode()).digest())
        return known is not None and known[1] is not None

    async def _look_up(self, key: str, now: datetime) -> Principal | None:
        found = None
        for row in await self.pool.fetch(_SQL["keys_by_prefix"], prefix_of(key), now, timeout=3):
            if matches(key, row["key_hash"], self.pepper):
                found = Principal(
                    row["user_id"],
                    f"{row['username']} ({row['name'] or prefix_of(key)})",
                    frozenset(row["roles"]),
                    row["subscription_id"],
                    row["id"],
                )
        return found
