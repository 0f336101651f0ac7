"""Publishes the traffic of a run from a thread of its own, at the pace of the faults, and single records when a fault needs them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any, Final

from services.cli.chaos.traffic import Traffic
from services.cli.demo.record import Record
from shared.errors import ServiceUnavailable

TRICKLE: Final = 0.2
"""The part of the rate that flows on when traffic is ahead of the faults: these need some, to come by their commit points."""
_BURST: Final = 50
_DELIVERY_SECONDS: Final = 900
_CONFIGURATION: Final[dict[str, Any]] = {
    "enable.idempotence": True,  # acks=all, and a retry is never a second record
    "linger.ms": 10,
    "message.max.bytes": 16 * 2**20,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 524_288,
    "delivery.timeout.ms": _DELIVERY_SECONDS * 1_000,  # longer than any broker is away
    "socket.connection.setup.timeout.ms": 5_000,
    "reconnect.backoff.max.ms": 1_000,
    "partitioner": "murmur2_random",
    "log_level": 0,
}


class Sender:
    """Draws from `traffic` and publishes, `rate` records a second; `events` is how many there are to be in the end."""

    def __init__(self, servers: str, topic: str, traffic: Traffic, *, rate: float, events: int) -> None:
        self._servers, self._topic, self._traffic = servers, topic, traffic
        self._rate, self._events = rate, events
        self._allowed: Callable[[], float] = lambda: events
        self._running, self._paused, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._failure: str | None = None
        self._others = 0
        self.drawn = 0
        self._connect()
        self._thread = threading.Thread(target=self._send_all, name="sender", daemon=True)

    @property
    def published(self) -> int:
        """All records that were handed to the producer."""
        return self.drawn + self._others

    @property
    def share(self) -> float:
        """How far the traffic has come, from 0 to 1."""
        return min(1.0, self.drawn / self._events)

    def pace(self, allowed: Callable[[], float]) -> None:
        """Let `allowed` say how many records may be out by now; beyond that they only trickle."""
        self._allowed = allowed

    def begin(self) -> None:
        """Begin to send."""
        self._running.set()
        self._thread.start()

    async def pause(self) -> None:
        """Return when no record is on its way any more."""
        self._running.clear()
        while not self._paused.is_set() and self._thread.is_alive():  # noqa: ASYNC110 – another thread's event
            await asyncio.sleep(0.02)
        await self.flush()

    def resume(self) -> None:
        """Go on after a pause."""
        self._paused.clear()
        self._running.set()

    async def renew(self) -> None:
        """Begin with a new producer: a topic that was made anew knows nothing of the old one's numbers. Only while paused."""
        await self.flush()
        self._connect()

    async def end(self) -> None:
        """Stop drawing and return when the broker has everything."""
        self._ending.set()
        self._running.set()
        await asyncio.to_thread(self._thread.join)
        await self.flush()

    async def send(self, records: Sequence[Record], partition: int | None = None) -> list[tuple[int, int]]:
        """Publish some records beside the traffic; return (partition, offset) of each."""
        places: list[tuple[int, int]] = []
        failed: list[str] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(str(error))
            else:
                places.append((message.partition(), message.offset()))

        for record in records:
            where: dict[str, Any] = {} if partition is None else {"partition": partition}
            self._single.produce(
                self._topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                on_delivery=delivered,
                **where,
            )
            self._others += 1
        while len(places) + len(failed) < len(records):
            self._single.poll(0)
            await asyncio.sleep(0.01)
        if failed:
            raise ServiceUnavailable(f"Kafka did not take {len(failed)} records: {failed[0]}")
        return places

    async def flush(self) -> None:
        """Return when the broker has all that was handed over. Raises `ServiceUnavailable`."""
        await asyncio.to_thread(self._producer.flush, _DELIVERY_SECONDS)
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what kept a record from being published."""
        if self._failure:
            raise ServiceUnavailable(f"Kafka did not take all records: {self._failure}")

    def _connect(self) -> None:
        from confluent_kafka import Producer  # noqa: PLC0415 – an optional dependency

        settings = {**_CONFIGURATION, "bootstrap.servers": self._servers}
        self._producer = Producer({**settings, "delivery.report.only.error": True})
        self._single = Producer(settings)

    def _send_all(self) -> None:
        try:
            self._send()
        except Exception as error:  # the main thread asks for it
            self._failure = repr(error)

    def _send(self) -> None:
        due = monotonic()
        for record in self._traffic.records():
            self._produce(record)
            self.drawn += 1
            if self.drawn % _BURST:
                continue
            self._producer.poll(0)
            if self._ending.is_set():
                return
            if not self._running.is_set():
                self._paused.set()
                self._running.wait()
                due = monotonic()
            rate = self._rate if self.drawn < self._allowed() else self._rate * TRICKLE
            due = max(due + _BURST / rate, monotonic() - 1.0)
            sleep(max(0.0, due - monotonic()))

    def _produce(self, record: Record) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = str(error)
