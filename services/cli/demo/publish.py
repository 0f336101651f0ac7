"""Publishes records as fast as one core allows (confluent-kafka), or at a fixed rate. Blocking: run it in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any, Final

from services.cli.demo.record import Record
from shared.errors import ConfigurationError, ServiceUnavailable
from shared.kafka import kafka_unavailable

_BURST: Final = 100
"""Records between two looks at the clock and at whether to stop."""
_CONNECT_SECONDS: Final = 15
_DELIVERY_SECONDS: Final = 60
_CONFIGURATION: Final[dict[str, Any]] = {
    "enable.idempotence": True,  # acks=all, and a retry is never a second record
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 262_144,
    "delivery.timeout.ms": _DELIVERY_SECONDS * 1_000,
    "delivery.report.only.error": True,  # a callback into Python for each record would halve the rate
    "partitioner": "murmur2_random",  # what Java's and aiokafka's producers do: one key, one partition, whoever sends
    "log_level": 0,
}


class Publisher:
    """Publishes to one topic. `published` may be read, and `stop` called, from another thread."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        rate: float | None = None,
        security: Mapping[str, str] | None = None,
    ) -> None:
        """`rate` is in records a second; None is full speed. `security` is what `librdkafka_security` returns.

        Raises `ConfigurationError` without confluent-kafka.
        """
        self._bootstrap_servers, self._topic, self._rate = bootstrap_servers, topic, rate
        self._producer = self._connect(security or {})
        self._stopping = threading.Event()
        self._failure: str | None = None
        self.published = 0

    def publish(self, records: Iterable[Record]) -> float:
        """Publish all records and wait until the broker has acknowledged them; return the seconds that took.

        Raises `ServiceUnavailable` if one was not acknowledged.
        """
        self._find_topic()
        begun = monotonic()
        for record in records:
            if self.published % _BURST == 0 and not self._may_go_on(begun):
                break
            self._send(record)
            self.published += 1
        self.flush()
        return monotonic() - begun

    def stop(self) -> None:
        """Let a running `publish` end after the records that it has handed over."""
        self._stopping.set()

    def _find_topic(self) -> None:
        """Ask for the topic before the first record, for an answer in seconds instead of after the delivery timeout."""
        try:
            topic = self._producer.list_topics(self._topic, timeout=_CONNECT_SECONDS).topics[self._topic]
        except Exception as error:
            raise kafka_unavailable(self._bootstrap_servers, error) from None
        if topic.error is not None:
            raise ConfigurationError(f"Kafka has no topic {self._topic}: make it with 'tallystick topics' first")

    def _may_go_on(self, begun: float) -> bool:
        """Deliver what is due, and wait for our turn if there is a rate."""
        self._producer.poll(0)
        early = 0.0 if self._rate is None else begun + self.published / self._rate - monotonic()
        return not self._stopping.wait(max(0.0, early)) and self._failure is None

    def _send(self, record: Record) -> None:
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
                self._producer.poll(0.05)  # the broker is slower than we are: let it catch up
            else:
                return

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = str(error.str())

    def flush(self) -> None:
        """Wait until the broker has acknowledged what was handed over. Raises as `publish` does."""
        waiting = self._producer.flush(_DELIVERY_SECONDS + 5)
        if self._failure or waiting:
            raise ServiceUnavailable(
                f"Kafka at {self._bootstrap_servers} did not take all records of {self._topic} ({self._failure or f'{waiting} unacknowledged'}): "
                "check KAFKA_BOOTSTRAP_SERVERS and that 'tallystick topics' was run; publishing again is safe, duplicates are recognised"
            )

    def _connect(self, security: Mapping[str, str]) -> Any:
        try:
            from confluent_kafka import Producer  # noqa: PLC0415 – an optional dependency
        except ImportError:
            raise ConfigurationError(
                "publishing needs confluent-kafka: install it with pip install 'tallystick[local]'"
            ) from None
        return Producer({**_CONFIGURATION, **security, "bootstrap.servers": self._bootstrap_servers})
