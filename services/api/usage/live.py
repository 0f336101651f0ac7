"""Live counters: what the subscriptions of whoever watches have used, asked of Postgres once in a while for all of them together.

What is told are states, not differences: a client that was away, or is slow, misses nothing by hearing the newest only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter as Multiset
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from services.api import metrics
from services.api.problems import RATE_LIMITED, Problem
from shared.postgres import UNREACHABLE, Pool
from shared.sql import Queries

log = structlog.get_logger("api.live")

_SQL: Final = Queries.load("services.api.usage", "own.sql")

LOOK_SECONDS: Final = 1.0
"""How often Postgres is asked, while anybody watches."""
LOOK_TIMEOUT_SECONDS: Final = 5.0

State = Mapping[UUID, Mapping[str, Any]]
"""The counters of one user's subscriptions, by id."""


@dataclass(frozen=True, slots=True)
class News:
    """Subscriptions that changed since the last news, or all of them at first. `id` is of the whole state."""

    id: str
    changed: list[Mapping[str, Any]]


@dataclass(slots=True)
class Live:
    """The counters of everybody who watches: at most `most` streams, `most_each` of one user. `pool` has the API's own rights."""

    pool: Pool
    most: int
    most_each: int
    look_seconds: float = LOOK_SECONDS
    _states: dict[UUID, State] = field(default_factory=dict)
    _watching: Multiset[UUID] = field(default_factory=Multiset)
    _somebody: asyncio.Event = field(default_factory=asyncio.Event)
    _looked: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False

    async def run(self) -> None:
        """Ask Postgres again and again, while anybody watches; until it is cancelled."""
        while True:
            await self._somebody.wait()
            await asyncio.sleep(self.look_seconds)
            try:
                found = await self._look(set(self._watching))
            except (*UNREACHABLE, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("live_counters_stand_still", error=repr(error))
                continue
            self._states.update({user: state for user, state in found.items() if user in self._watching})
            seen, self._looked = self._looked, asyncio.Event()
            seen.set()

    def end(self) -> None:
        """End all streams: the server stops."""
        self._ended = True
        self._looked.set()

    async def news(self, user_id: UUID, known: str | None, silence: float) -> AsyncGenerator[News | None, None]:
        """Yield the state of a user, then whatever changes; None after `silence` seconds without any. Ends with the server.

        `known` is the id of the state that the client has from before: if it still is so, it is not told again. The first step raises
        `Problem` (429) for one stream too many, and what a database that is away raises.
        """
        with self._admitted(user_id):
            if user_id not in self._states:
                self._states.update(await self._look({user_id}))
            state = self._states[user_id]
            told: State = state if known == id_of(state) else {}
            while not self._ended:
                changed = [counters for id_, counters in state.items() if told.get(id_) != counters]
                yield News(id_of(state), changed) if changed else None
                told, state = state, await self._another(user_id, state, silence)

    @contextmanager
    def _admitted(self, user_id: UUID) -> Iterator[None]:
        if self._watching.total() >= self.most or self._watching[user_id] >= self.most_each:
            raise Problem(
                RATE_LIMITED,
                f"a user has {self.most_each} streams at most, all together {self.most}: end one, or ask /api/v1/quotas",
            )
        self._watching[user_id] += 1
        self._somebody.set()
        metrics.STREAMS.inc()
        try:
            yield
        finally:
            metrics.STREAMS.dec()
            self._watching[user_id] -= 1
            if not self._watching[user_id]:
                del self._watching[user_id]
                self._states.pop(user_id, None)
            if not self._watching:
                self._somebody.clear()

    async def _another(self, user_id: UUID, state: State, seconds: float) -> State:
        """Wait so long at most for another state than this one; return the one that there is then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._ended and self._states[user_id] == state:
                    await self._looked.wait()
        return self._states[user_id]

    async def _look(self, users: set[UUID]) -> dict[UUID, State]:
        rows = await self.pool.fetch(_SQL["counters"], list(users), timeout=LOOK_TIMEOUT_SECONDS)
        found: dict[UUID, dict[UUID, Mapping[str, Any]]] = {user_id: {} for user_id in users}
        for row in rows:
            found[row["user_id"]][row["id"]] = dict(row)
        return dict(found)


def id_of(state: State) -> str:
    """Return what tells a state from others."""
    shown = repr([(str(id_), sorted(counters.items())) for id_, counters in sorted(state.items())])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]
