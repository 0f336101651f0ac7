"""Reserves for many at once: what is asked while a transaction runs is answered together by the next one.

So a hot subscription, whose row one transaction at a time can have, is not limited to one reservation for each of them. All asks for a
subscription go the same way, one batch after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import asyncpg
import structlog

from services.api import metrics
from services.api.reservations import store
from services.api.reservations.asking import Answer, Ask
from shared.clock import Clock
from shared.postgres import Pool, transaction

log = structlog.get_logger("api.reservations")

MOST_AT_ONCE: Final = 250
"""Asks in one transaction: nobody waits long for the rows that it locks."""
LANES: Final = 2
"""Transactions at once."""

_Waiting: TypeAlias = tuple[Ask, "asyncio.Future[Answer]"]


@dataclass(slots=True)
class _Lane:
    waiting: list[_Waiting] = field(default_factory=list)
    work: asyncio.Task[None] | None = None


class Reserver:
    """Answers asks. Raises what the database raises: then nothing was reserved, or nobody knows; a key makes asking again safe."""

    def __init__(self, pool: Pool, clock: Clock, *, lanes: int = LANES) -> None:
        self._pool = pool
        self._clock = clock
        self._lanes = [_Lane() for _ in range(lanes)]

    async def reserve(self, ask: Ask) -> Answer:
        """Return what became of an ask, together with others."""
        lane = self._lanes[ask.subscription_id.int % len(self._lanes)]
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        lane.waiting.append((ask, answer))
        if lane.work is None:
            lane.work = asyncio.create_task(self._work(lane))
        return await answer

    async def close(self) -> None:
        """Wait until what was asked is answered."""
        while running := [lane.work for lane in self._lanes if lane.work]:
            await asyncio.gather(*running)

    async def _work(self, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch, lane.waiting = lane.waiting[:MOST_AT_ONCE], lane.waiting[MOST_AT_ONCE:]
                await self._answer([waiting for waiting in batch if not waiting[1].done()])  # who hung up asks nothing
        finally:
            lane.work = None

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Answer some together; if Postgres refuses that, each by itself, so that one cannot spoil it for the others."""
        if not batch:
            return
        try:
            answers = await self._reserve([ask for ask, _ in batch])
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if len(batch) > 1:
                log.warning("reservations_refused_together", asks=len(batch), error=repr(error))
                for one in batch:
                    await self._answer([one])
                return
            _fail(batch, error)
        except Exception as error:
            _fail(batch, error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _reserve(self, asks: Sequence[Ask]) -> list[Answer]:
        metrics.RESERVATIONS_TOGETHER.observe(len(asks))
        async with transaction(self._pool) as connection:
            return await store.reserve(connection, asks, self._clock.now())


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
