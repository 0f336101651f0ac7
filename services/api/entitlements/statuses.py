"""The last status of every subscription, read from the compacted topic `subscription.status` from its beginning.

Without a group and without positions: every process reads all of it when it starts, and what comes from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError

from services.api import metrics
from shared.contracts import SUBSCRIPTION_STATUS, SubscriptionStatus
from shared.kafka_security import client_security
from shared.settings import KafkaSettings

log = structlog.get_logger("api.statuses")

FETCH_MS: Final = 500
BACKOFF_SECONDS: Final = (1.0, 30.0)
"""Pause after the broker was not there: at first, and at most."""

_decode = msgspec.json.Decoder(SubscriptionStatus).decode


class Statuses:
    """Keeps the statuses; `changed` is told of each that is new."""

    def __init__(self, settings: KafkaSettings, changed: Callable[[UUID], None]) -> None:
        self._settings, self._changed = settings, changed
        self._known: dict[UUID, SubscriptionStatus] = {}
        self._reading: asyncio.Task[None] | None = None

    def get(self, subscription: UUID) -> SubscriptionStatus | None:
        """Return the last status of a subscription, None if none has come."""
        return self._known.get(subscription)

    def start(self) -> None:
        """Begin to read, and go on until closed, whatever the broker does."""
        self._reading = asyncio.create_task(self._read_on())

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def apply(self, value: bytes | None) -> None:
        """Take one message. An older version than is known is none (after a restart, everything comes again)."""
        if not value:
            return
        try:
            status = _decode(value)
        except msgspec.MsgspecError as error:
            log.error("status_not_readable", error=str(error), then="it is passed over: the database is asked first")
            return
        known = self._known.get(status.subscription)
        if known is None or known.version <= status.version:
            self._known[status.subscription] = status
            self._changed(status.subscription)
            metrics.STATUSES.set(len(self._known))

    async def _read_on(self) -> None:
        pause, most = BACKOFF_SECONDS
        while True:
            try:
                await self._read()
            except (KafkaError, OSError) as error:
                log.warning("statuses_not_read", error=repr(error), retry_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(most, pause * 2)

    async def _read(self) -> None:
        consumer = AIOKafkaConsumer(
            self._settings.kafka_topic_prefix + SUBSCRIPTION_STATUS,
            bootstrap_servers=self._settings.kafka_bootstrap_servers,
            client_id="tallystick-api-statuses",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            **client_security(self._settings),
        )
        try:
            await consumer.start()
            while True:
                for records in (await consumer.getmany(timeout_ms=FETCH_MS)).values():
                    self._apply(records)
                    await asyncio.sleep(0)  # the first reading is long: others get their turn
        finally:
            await consumer.stop()

    def _apply(self, records: list[ConsumerRecord[bytes, bytes]]) -> None:
        for record in records:
            self.apply(record.value)
