"""Publishes events through librdkafka, on the event loop: one call for a request, back when the broker has all of it (acks=all).

The client's threads are C. Its reports come when they are asked for, which a timer does while somebody waits: no thread of Python
contends for the interpreter, which is what makes it several times as cheap as aiokafka (docs/decisions/0028-events-over-http.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, TypeAlias

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from services.api import metrics
from services.api.problems import UNAVAILABLE, Problem
from shared.errors import ConfigurationError

log = structlog.get_logger("api.events")

Record: TypeAlias = tuple[bytes | None, bytes]
"""Key and value. Without a key any partition will do."""

_LOOK_SECONDS: Final = 0.001
"""Between two looks for acknowledgements, while some are awaited."""
_WAITING_BYTES: Final = 128 * 2**20
_CLOSE_SECONDS: Final = 5.0
_TOO_LARGE: Final = (KafkaError.MSG_SIZE_TOO_LARGE,)


@dataclass(slots=True)
class _Request:
    """What is awaited for one request."""

    producer: Producer
    left: int
    done: asyncio.Future[None]
    errors: list[KafkaError] = field(default_factory=list)
    too_large: list[bytes] = field(default_factory=list)

    def delivered(self, error: KafkaError | None, message: Any) -> None:
        """Hear of one record. Called by the client, from `poll`."""
        if error is not None:
            if error.code() in _TOO_LARGE:
                self.too_large.append(message.value())
            else:
                self.errors.append(error)
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


class Publisher:
    """Publishes to one topic, between `start` and `close`."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        security: Mapping[str, str],
        ack_seconds: float,
        most_waiting: int,
        record_bytes: int,
    ) -> None:
        """`most_waiting` events may await their acknowledgement at once, each for `ack_seconds` at most. `security` is of `librdkafka_security`."""
        self._bootstrap_servers, self._topic = bootstrap_servers, topic
        self._ack_seconds, self._most_waiting = ack_seconds, most_waiting
        self._configuration: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "tallystick-api",
            "enable.idempotence": True,  # acks=all, and a retry is never a second record
            "partitioner": "murmur2_random",  # as Java's and aiokafka's producers do: one key, one partition, whoever sends
            "linger.ms": 2,
            "delivery.timeout.ms": int(ack_seconds * 1000),
            "message.max.bytes": max(1_000_000, record_bytes + 64 * 1024),
            "queue.buffering.max.messages": 2 * most_waiting + 10_000,
            "queue.buffering.max.kbytes": 2 * _WAITING_BYTES // 1024,
            "log_level": 0,  # what matters comes as an error
            **security,
        }
        self._producer: Producer | None = None
        self._given_up: list[Producer] = []
        self._waiting = self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to connect. A broker that is away is no reason not to start. Raises `ConfigurationError` for settings that are not usable."""
        try:
            self._producer = Producer({**self._configuration, "error_cb": self._troubled})
        except (KafkaException, ValueError) as error:
            raise ConfigurationError(f"the settings for Kafka are not usable: {error}") from None
        self._producer.poll(0)

    async def publish(self, records: Sequence[Record]) -> list[bytes]:
        """Return when the broker has acknowledged all records; the values that it found too large for the topic are returned.

        Raises `Problem` (503) if there is too much waiting, or if not all are acknowledged in time. Some may be stored then: sending
        all of them again is what to do, and does no harm.
        """
        if not records:
            return []
        size = sum(len(value) for _, value in records)
        if self._waiting and (
            self._waiting + len(records) > self._most_waiting or self._waiting_bytes + size > _WAITING_BYTES
        ):
            metrics.NOT_ACKNOWLEDGED.labels("overload").inc()
            raise Problem(
                UNAVAILABLE, "more events wait for Kafka than are let in: send them again", headers={"Retry-After": "1"}
            )
        begun, request = perf_counter(), self._hand_over(records)
        self._count(len(records), size)
        self._look_later()
        try:
            await request.done
        finally:
            self._count(-len(records), -size)
        if request.errors:
            self._refuse(request, len(records))
        metrics.ACK_SECONDS.observe(perf_counter() - begun)
        return request.too_large

    async def close(self) -> None:
        """Let what was handed over reach the broker."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while any(map(len, self._producers)):
                    self._look()
                    await asyncio.sleep(_LOOK_SECONDS)
        if self._timer is not None:
            self._timer.cancel()
        self._producer = None

    @property
    def _producers(self) -> list[Producer]:
        return [*self._given_up, self._producer] if self._producer is not None else self._given_up

    def _hand_over(self, records: Sequence[Record]) -> _Request:
        if self._producer is None:
            self.start()
        assert self._producer is not None  # noqa: S101 (started)
        request = _Request(self._producer, len(records), asyncio.get_running_loop().create_future())
        produce, topic, delivered = self._producer.produce, self._topic, request.delivered
        handed = 0
        try:
            for key, value in records:
                produce(topic, value, key, -1, delivered)
                handed += 1
        except (BufferError, KafkaException) as error:
            found = error.args[0] if error.args and isinstance(error.args[0], KafkaError) else None
            request.errors.append(found or KafkaError(KafkaError._QUEUE_FULL, str(error)))
            request.left = handed
            if not handed:
                request.done.set_result(None)
        return request

    def _count(self, events: int, size: int) -> None:
        self._waiting += events
        self._waiting_bytes += size
        metrics.EVENTS_WAITING.set(self._waiting)

    def _look_later(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Fetch the reports that there are, and look again as long as somebody waits."""
        self._timer = None
        for producer in self._producers:
            producer.poll(0)
        self._given_up = [producer for producer in self._given_up if len(producer)]
        self._look_later()

    def _refuse(self, request: _Request, count: int) -> None:
        metrics.NOT_ACKNOWLEDGED.labels("broker").inc()
        error = request.errors[0]
        if any(found.fatal() for found in request.errors):
            self._give_up(request.producer)
        log.warning("not_acknowledged", events=count, failed=len(request.errors), error=error.name())
        hint = (
            f": Kafka has no topic {self._topic}; make it with 'tallystick topics'"
            if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
            else ""
        )
        raise Problem(
            UNAVAILABLE,
            f"Kafka did not acknowledge all events within {self._ack_seconds:g} s ({error.name()}){hint}. "
            "Send the request again: what is there already counts once",
        )

    def _give_up(self, broken: Producer) -> None:
        """Leave a producer that its library calls broken; the next events get a new one. What others await of it is reported as failed."""
        if broken is not self._producer:
            return  # another request was first to find out
        log.error("producer_broken", then="the next events get a new one")
        broken.purge()
        self._given_up.append(broken)
        self._producer = None

    def _troubled(self, error: KafkaError) -> None:
        log.warning("kafka_trouble", error=error.name(), detail=error.str()[:200])
