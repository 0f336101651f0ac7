"""Finds verdicts: by the database as it was at most a moment ago; while it is away, by whatever is known that is youngest."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import NoReturn
from uuid import UUID

from services.api import metrics
from services.api.entitlements import store
from services.api.entitlements.decision import Key, Standing, Verdict, decide, decide_by_status
from services.api.entitlements.fresh import Away, Fresh
from services.api.entitlements.minutes import Minutes
from services.api.entitlements.statuses import Statuses
from services.api.limits import Taken
from shared.clock import Clock
from shared.errors import ServiceUnavailable
from shared.period import utc
from shared.postgres import Pool
from shared.settings import KafkaSettings


class Entitlements:
    """The answers of one process. `keep` is how old what the database said may be."""

    def __init__(self, pool: Pool, kafka: KafkaSettings, clock: Clock, keep: timedelta) -> None:
        self._clock = clock
        self._standings: Fresh[UUID, Standing] = Fresh("standings", partial(store.standings, pool), clock, keep)
        self._keys: Fresh[store.KeyName, Key] = Fresh("keys", partial(store.keys, pool), clock, keep)
        self._minutes = Minutes()
        self.statuses = Statuses(kafka, self._standings.expire)

    def start(self) -> None:
        """Begin to read statuses."""
        self.statuses.start()

    async def close(self) -> None:
        """End what runs."""
        await self.statuses.close()
        await self._standings.close()
        await self._keys.close()

    async def standing(self, subscription: UUID) -> Standing | None:
        """Return how a subscription stands, None if there is none. While the database is away, how it last stood.

        Raises `ServiceUnavailable` when that is not known.
        """
        try:
            return await self._standings.get(subscription)
        except Away:
            return self._standings.last(subscription) or _unknown("this subscription")

    async def key(self, name: store.KeyName) -> Key | None:
        """Return an API key by its id or hash; the same."""
        try:
            return await self._keys.get(name)
        except Away:
            return self._keys.last(name) or _unknown("this API key")

    def minute(self, key: Key | None, *, count: bool) -> Taken | None:
        """Return whether a key may make one more request in this minute, and count it if so; None where it has no such limit."""
        if key is None or key.per_minute is None:
            return None
        return self._minutes.take(key.id, key.per_minute, self._clock.now().timestamp(), count=count)

    async def verdict(
        self, subscription: UUID, key: Key | None = None, *, key_id: UUID | None = None, count: bool = False
    ) -> Verdict | None:
        """Return the verdict on a subscription and one of its keys, None if there is no such subscription.

        `key_id` names a key that could not be looked up. Raises `ServiceUnavailable` when nothing is known and the database is away.
        """
        minute = self.minute(key, count=count)
        try:
            standing = await self._standings.get(subscription, spare=self.statuses.get(subscription) is not None)
            found = None if standing is None else decide(standing, key, minute)
        except Away:
            found = self._remembered(subscription, key, key.id if key else key_id, minute)
        if found is not None:
            metrics.ENTITLEMENTS.labels("allowed" if found.allowed else "refused", found.source).inc()
        return found

    def _remembered(self, subscription: UUID, key: Key | None, key_id: UUID | None, minute: Taken | None) -> Verdict:
        status, standing = self.statuses.get(subscription), self._standings.last(subscription)
        if standing is not None and (status is None or standing.version >= status.version):
            return decide(standing, key, minute)
        if status is None:
            return _unknown("this subscription")
        return decide_by_status(status, key_id, key, minute, utc(self._clock.now()).date())


def _unknown(what: str) -> NoReturn:
    raise ServiceUnavailable(f"Postgres does not answer, and nothing is known of {what} yet: ask again")
