"""How soon usage is visible under an open load, and how soon gateways hear of who has used up a quota.

Latency counts from the moment an event *should* have been sent, so that a stall counts against every event that it delays. A row is
visible when the position of its partition, which commits with it, is beyond its offset; a summary when as many events are summed
up as were due by then. Both are looked at every 20 ms. A suspension counts from the event that reached the quota until its message
has come from `subscription.status`, the topic of the gateways, which is read all the while.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.load import OWNERS, Load, number_of
from benchmarks.running import Place, make_customers, place, workers
from benchmarks.traffic import PARTITIONS
from deploy.local.stack import Stack
from shared.contracts import SUBSCRIPTION_STATUS

LOOK_SECONDS = 0.02
WARM_UP_SECONDS = 3.0
"""Of the load, at its beginning: not counted."""
LIMITED = OWNERS // 2
"""Subscriptions that reach a quota while the load goes on, one after the other."""


async def measure(stack: Stack, owners: Sequence[str], rate: int, seconds: int) -> dict[str, Any]:
    """Return the latencies in seconds at a rate, and what reconciliation says behind them."""
    async with place(stack, owners) as where:
        reach = await limit(where, owners, rate, seconds)
        with workers(where, ["services.ingest", "services.aggregator", "services.billing"]), gateway(where) as heard:
            while await where.connection.fetchval("SELECT count(*) FROM ingest_positions") < PARTITIONS:
                await asyncio.sleep(0.05)
            load = Load(where, owners, rate, WARM_UP_SECONDS + seconds)
            load.start()
            rows, summaries, sent = await _look(where, load)
            load.join()
            await where.caught_up()
            async with asyncio.timeout(30):
                while len(heard) < len(reach):
                    await asyncio.sleep(0.05)
        return {
            "sent": sent,
            "rate": round(sent / (WARM_UP_SECONDS + seconds)),
            "row": _percentiles(rows),
            "summary": _percentiles(summaries),
            "suspension": _percentiles([heard[owner] - load.due_at(number) for owner, number in reach.items()]),
            "suspensions": len(reach),
            "checks": await where.reconciled(),
        }


async def limit(where: Place, owners: Sequence[str], rate: int, seconds: int) -> dict[str, int]:
    """Give quotas that are reached evenly over the time that is measured; return by which event each is."""
    first, last = (int(rate * at / OWNERS) for at in (WARM_UP_SECONDS, WARM_UP_SECONDS + seconds))
    turns = {which: first + 1 + which * (last - first - 2) // LIMITED for which in range(LIMITED)}
    await make_customers(where.connection, owners, {owners[which]: turn + 1 for which, turn in turns.items()})
    return {owners[which]: number_of(which, turn) for which, turn in turns.items()}


@contextmanager
def gateway(where: Place) -> Iterator[Mapping[str, float]]:
    """Read the gateways' topic in a thread of its own; when each subscription was first said to be suspended."""
    heard: dict[str, float] = {}
    done = threading.Event()

    def listen() -> None:
        consumer = Consumer({"bootstrap.servers": where.stack.kafka_bootstrap_servers, "group.id": "gateway", "enable.auto.commit": False})  # fmt: skip
        topic = where.prefix + SUBSCRIPTION_STATUS
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
        while not done.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                now, status = time.time(), json.loads(message.value() or b"{}")
                if status.get("status") == "suspended":
                    heard.setdefault(status["subscription"], now)
        consumer.close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        done.set()
        thread.join()


async def _look(where: Place, load: Load) -> tuple[list[float], list[float], int]:
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
        count = int(await where.connection.fetchval(SUMMED))
        now = time.time()
        first = max(summed, int((warm - load.started) * load.rate))
        summaries += [now - load.due_at(number) for number in range(first, count)]
        summed = max(summed, count)
        if not running and sum(stored) >= load.sent and summed >= load.sent:
            return rows, summaries, load.sent
        await asyncio.sleep(LOOK_SECONDS)


SUMMED = "SELECT coalesce(sum(request_count), 0) FROM usage_summaries WHERE period_type = 'hour'"


def _percentiles(latencies: list[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }
