"""What the database said a moment ago, in memory: asked again when it is older, for many at once, and never for long.

While a query runs, whatever is asked for meanwhile is the next query. Who could be answered otherwise does not wait for a database that is slow
or away: after it has let somebody down, it is not waited for during a second.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import asyncpg
import structlog

from shared.clock import Clock
from shared.postgres import UNREACHABLE

log = structlog.get_logger("api.entitlements")

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST_AT_ONCE: Final = 500
"""Things that one query asks for."""
REMEMBERED: Final = 200_000
"""Most things that are kept; the one that was loaded longest ago goes first."""
PATIENCE_SECONDS: Final = 0.5
"""How long somebody waits who could be answered otherwise."""
LONGEST_SECONDS: Final = 5.0
"""How long the database may take to answer."""
REST: Final = timedelta(seconds=1)

_AWAY: Final = object()


class Away(Exception):
    """The database does not answer in time."""


class Fresh(Generic[K, V]):
    """Loads and keeps things by key; what `load` leaves out does not exist."""

    def __init__(
        self,
        what: str,
        load: Callable[[Sequence[K], datetime], Awaitable[Mapping[K, V]]],
        clock: Clock,
        keep: timedelta,
    ) -> None:
        self._what, self._load, self._clock, self._keep = what, load, clock, keep
        self._kept: OrderedDict[K, tuple[datetime, V | None]] = OrderedDict()
        self._wanted: dict[K, asyncio.Future[object]] = {}
        self._work: asyncio.Task[None] | None = None
        self._away_until: datetime | None = None

    async def get(self, key: K, *, spare: bool = False) -> V | None:
        """Return a thing as it was no longer than `keep` ago, None if there is none. Raises `Away`.

        `spare`: there is another answer. So there is where the thing was loaded before.
        """
        known, now = self._kept.get(key), self._clock.now()
        if known is not None and now - known[0] < self._keep:
            if now - known[0] >= self._keep / 2 and not self._rests(now):
                self._want(key)  # what is asked for often is loaded ahead, and nobody waits for it
            return known[1]
        spare = spare or known is not None
        if spare and self._rests(now):
            raise Away
        answer = self._want(key)
        done, _ = await asyncio.wait({answer}, timeout=PATIENCE_SECONDS if spare else LONGEST_SECONDS)
        if not done:
            self._away_until = self._clock.now() + REST
        if not done or answer.result() is _AWAY:
            raise Away
        known = self._kept.get(key)
        return known[1] if known else None

    def last(self, key: K) -> V | None:
        """Return a thing as it was when it was last loaded, however long ago; None if that is not known."""
        known = self._kept.get(key)
        return known[1] if known else None

    def expire(self, key: K) -> None:
        """Say that a thing has changed: it is loaded before the next answer."""
        if known := self._kept.get(key):
            self._kept[key] = (known[0] - self._keep, known[1])

    async def close(self) -> None:
        """Wait for the query that runs."""
        if self._work is not None:
            await self._work

    def _rests(self, now: datetime) -> bool:
        return self._away_until is not None and now < self._away_until

    def _want(self, key: K) -> asyncio.Future[object]:
        """Let a thing be loaded by the next query; return what is done then."""
        answer = self._wanted.get(key)
        if answer is None:
            answer = self._wanted[key] = asyncio.get_running_loop().create_future()
            if self._work is None:
                self._work = asyncio.create_task(self._work_off())
        return answer

    async def _work_off(self) -> None:
        try:
            while self._wanted:
                batch = list(self._wanted)[:MOST_AT_ONCE]
                answers = [self._wanted.pop(key) for key in batch]
                outcome = await self._load_batch(batch)
                for answer in answers:
                    answer.set_result(outcome)
        finally:
            self._work = None

    async def _load_batch(self, batch: Sequence[K]) -> object:
        now = self._clock.now()
        loading = asyncio.ensure_future(self._load(batch, now))
        try:
            # Not asyncio.timeout: cancelling waits for a server that hangs to confirm it.
            done, _ = await asyncio.wait({loading}, timeout=LONGEST_SECONDS)
            if not done:
                loading.cancel()
                loading.add_done_callback(_look_away)
                raise TimeoutError(f"no answer in {LONGEST_SECONDS} s")
            found = loading.result()
        except (*UNREACHABLE, asyncpg.InterfaceError) as error:
            log.warning("entitlements_without_database", what=self._what, error=repr(error))
            self._away_until = now + REST
            return _AWAY
        self._away_until = None
        for key in batch:
            self._kept[key] = (now, found.get(key))
            self._kept.move_to_end(key)
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return None


def _look_away(loading: asyncio.Future[Any]) -> None:
    """Let an error that comes after all be no surprise to the event loop."""
    if not loading.cancelled():
        loading.exception()
