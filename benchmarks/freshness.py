"""How soon usage is visible under an open load: events are sent when they are due, whatever became of those before.

Latency counts from the moment an event *should* have been sent, so that a stall counts against every event that it delays. A row is
visible when the position of its partition, which commits with it, is beyond its offset; a summary when as many events are summed
up as were due by then. Both are looked at every 20 ms.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Producer

from benchmarks.ingest import MODELS, PARTITIONS
from benchmarks.running import Place, place, workers
from deploy.local.stack import Stack

LOOK_SECONDS = 0.02
WARM_UP_SECONDS = 3.0
"""Of the load, at its beginning: not counted."""


class Load:
    """Sends events at a rate from a thread of its own. `due[p]` are the times at which those of partition p were due, in order."""

    def __init__(self, where: Place, owners: Sequence[str], rate: int, seconds: float) -> None:
        self.due: list[list[float]] = [[] for _ in range(PARTITIONS)]
        self._where, self._owners, self._rate, self._seconds = where, owners[:1_000], rate, seconds
        self.started = time.time()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _send(self) -> None:
        producer = Producer(
            {"bootstrap.servers": self._where.stack.kafka_bootstrap_servers, "acks": "all", "linger.ms": 5, "queue.buffering.max.messages": 500_000}
        )  # fmt: skip
        run, places = uuid.uuid4().hex, [zlib.crc32(owner.encode()) % PARTITIONS for owner in self._owners]
        template = _template(run)
        started = self.started = time.time()
        number, total = 0, int(self._rate * self._seconds)
        while number < total:
            until = min(total, int((time.time() - started) * self._rate) + 1)
            while number < until:
                which = (number * 7919) % len(self._owners)
                due = started + number / self._rate
                value = template % (number, datetime.fromtimestamp(due, UTC).isoformat(), self._owners[which], which % MODELS, number % 8_000)  # fmt: skip
                producer.produce(self._where.topic, value, key=self._owners[which], partition=places[which])
                self.due[places[which]].append(due)
                number += 1
            producer.poll(0)
            time.sleep(0.002)
        assert producer.flush(60) == 0


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


async def measure(stack: Stack, owners: Sequence[str], rate: int, seconds: int) -> dict[str, Any]:
    """Return the latencies in seconds at a rate, and what reconciliation says behind them."""
    async with place(stack, owners) as where:
        with workers(where, ["services.ingest", "services.aggregator", "services.billing"]):
            while await where.connection.fetchval("SELECT count(*) FROM ingest_positions") < PARTITIONS:
                await asyncio.sleep(0.05)
            load = Load(where, owners, rate, WARM_UP_SECONDS + seconds)
            load.start()
            rows, summaries, sent = await _look(where, load, rate)
            load.join()
            await where.caught_up()
        return {
            "sent": sent,
            "rate": round(sent / (WARM_UP_SECONDS + seconds)),
            "row": _percentiles(rows),
            "summary": _percentiles(summaries),
            "checks": await where.reconciled(),
        }


async def _look(where: Place, load: Load, rate: int) -> tuple[list[float], list[float], int]:
    rows: list[float] = []
    summaries: list[float] = []
    stored, summed, warm = [0] * PARTITIONS, 0, time.time() + WARM_UP_SECONDS
    while True:
        running = load.running
        positions = await where.connection.fetch("SELECT partition, next_offset FROM ingest_positions")
        now = time.time()
        for partition, offset in positions:
            rows += [now - at for at in load.due[partition][stored[partition] : offset] if at >= warm]
            stored[partition] = offset
        count = int(
            await where.connection.fetchval(
                "SELECT coalesce(sum(request_count), 0) FROM usage_summaries WHERE period_type = 'hour'"
            )
        )
        now = time.time()
        first = max(summed, int((warm - load.started) * rate))
        summaries += [now - load.started - number / rate for number in range(first, count)]
        summed = max(summed, count)
        total = sum(map(len, load.due))
        if not running and sum(stored) >= total and summed >= total:
            return rows, summaries, total
        await asyncio.sleep(LOOK_SECONDS)


def _percentiles(latencies: list[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }
