"""An open load: events are sent when they are due, whatever became of those before."""

from __future__ import annotations

import json
import threading
import time
import uuid
import zlib
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime

from confluent_kafka import Producer

from benchmarks.running import Place
from benchmarks.traffic import MODELS, PARTITIONS

OWNERS = 1_000
"""Subscriptions that take turns."""
_STRIDE = 7_919
"""Shuffles their order; has no divisor in common with their number."""


class Load:
    """Sends events at a rate from a thread of its own. `due[p]` are the times at which those of partition p were due, in order."""

    def __init__(self, where: Place, owners: Sequence[str], rate: int, seconds: float) -> None:
        self.due = [array("d") for _ in range(PARTITIONS)]
        self.rate = rate
        self.started = time.time()
        self._where, self._owners, self._seconds = where, owners[:OWNERS], seconds
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send no more, and return when all that was sent is acknowledged."""
        self._enough.set()
        self._thread.join()

    def join(self) -> None:
        """Return when everything is sent and acknowledged."""
        self._thread.join()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def sent(self) -> int:
        """How many events were handed to the client until now."""
        return sum(map(len, self.due))

    def due_at(self, number: float) -> float:
        """Return when the event of a number, counted from 0, is due."""
        return self.started + number / self.rate

    def _send(self) -> None:
        producer = Producer(
            {"bootstrap.servers": self._where.stack.kafka_bootstrap_servers, "acks": "all", "linger.ms": 20, "queue.buffering.max.messages": 500_000}
        )  # fmt: skip
        run, places = uuid.uuid4().hex, [zlib.crc32(owner.encode()) % PARTITIONS for owner in self._owners]
        template = _template(run)
        self.started = time.time()
        number, total = 0, int(self.rate * self._seconds)
        while number < total and not self._enough.is_set():
            until = min(total, int((time.time() - self.started) * self.rate) + 1)
            while number < until:
                which = owner_of(number, len(self._owners))
                due = self.due_at(number)
                value = template % (number, datetime.fromtimestamp(due, UTC).isoformat(), self._owners[which], which % MODELS, number % 8_000)  # fmt: skip
                producer.produce(self._where.topic, value, key=self._owners[which], partition=places[which])
                self.due[places[which]].append(due)
                number += 1
            producer.poll(0)
            time.sleep(0.002)
        assert producer.flush(60) == 0


def owner_of(number: int, owners: int) -> int:
    """Return which of so many subscriptions an event is of."""
    return number * _STRIDE % owners


def number_of(which: int, turn: int) -> int:
    """Return the number of the event that is a subscription's `turn`th, both counted from 0."""
    return turn * OWNERS + which * pow(_STRIDE, -1, OWNERS) % OWNERS


def _template(run: str) -> str:
    data = {"provider": "openai", "response_tokens": 300, "latency_ms": 900, "status_code": 200, "power_level": "eco", "feature_type": "chat",
            "app_id": "crm", "session_id": f"session-{run[:8]}", "end_user": "user-17", "metadata": {"region": "eu-central-1", "route": "primary"}}  # fmt: skip
    fixed = json.dumps(data)[1:]
    return (
        '{"specversion": "1.0", "id": "'
        + run
        + '-%d", "source": "/gateways/eu-1", "type": "tallystick.usage.v1", "time": "%s", '
        '"subject": "%s", "data": {"model": "model-%d", "request_tokens": %d, ' + fixed + "}"
    )
