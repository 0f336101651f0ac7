"""The reservations of one process of the API: made together with others, looked up, cancelled."""

from __future__ import annotations

from uuid import UUID

from services.api import metrics
from services.api.reservations import store
from services.api.reservations.asking import Answer, Ask, Reservation
from services.api.reservations.estimating import Estimates
from services.api.reservations.reserving import Reserver
from shared.clock import Clock
from shared.postgres import Pool, transaction


class Reservations:
    """What routes do with reservations. Raises what the database raises."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool, self._clock = pool, clock
        self._reserver = Reserver(pool, clock)
        self.estimates = Estimates(pool, clock)

    async def reserve(self, ask: Ask) -> Answer:
        """Return what became of an ask."""
        answer = await self._reserver.reserve(ask)
        metrics.RESERVATIONS.labels(answer.outcome).inc()
        return answer

    async def find(self, id_: UUID) -> tuple[Reservation, UUID] | None:
        """Return a reservation and the user whose it is, None if there is none (any more)."""
        async with self._pool.acquire() as connection:
            return await store.find(connection, id_)

    async def cancel(self, id_: UUID) -> Reservation | None:
        """Cancel a reservation that is open; return it as it is then, None if there is none."""
        async with transaction(self._pool) as connection:
            return await store.cancel(connection, id_, self._clock.now())

    async def close(self) -> None:
        """Wait until what was asked is answered."""
        await self._reserver.close()
