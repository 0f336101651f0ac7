"""What holds for longer than a burst: an open load on the whole pipeline for minutes, and what it takes to catch up after an outage.

An effect of an event is there when its row is committed, when it is summed up, and when it is rated; how far behind each of them is, is the age
of the first event of the load that lacks it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks.freshness import SUMMED
from benchmarks.hardware import Used
from benchmarks.load import Load
from benchmarks.running import Place, make_customers, place, workers
from benchmarks.traffic import PARTITIONS
from deploy.local.stack import Stack

SERVICES = ("ingest", "aggregator", "billing")
STORED = "SELECT coalesce(sum(next_offset), 0) FROM ingest_positions"
RATED = "SELECT coalesce(sum(event_count), 0) FROM billing_inbox"
EFFECTS = {"row": STORED, "summary": SUMMED, "rated": RATED}
LOOK_SECONDS = 0.5
MEMORY_SECONDS = 5.0
LEVEL_SHARE = 0.25
"""Of the soak, at its beginning: memory that is taken meanwhile is what a worker needs, and not a slope."""
NEAR_SECONDS = 2.0
"""An effect that is less than this behind keeps up."""
PATIENCE = 4
"""So many times as long as an outage was, catching up may take."""


@dataclass
class Soak:
    """What is seen while the load goes on: seconds that each effect is behind, and the memory of each worker in MiB by minute."""

    behind: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in EFFECTS})
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in SERVICES})

    def figures(self) -> dict[str, Any]:
        """Return how far behind it was, and whether memory is flat."""
        return {
            "behind": {name: _spread(seconds) for name, seconds in self.behind.items()},
            "memory": {name: level_of(samples) for name, samples in self.memory.items()},
        }


async def soak(stack: Stack, owners: Sequence[str], rate: int, minutes: float) -> dict[str, Any]:
    """Return what the pipeline sustains of a load of so many minutes, until every effect of it is there."""
    async with place(stack, owners) as where:
        await make_customers(where.connection, owners)
        with workers(where, [f"services.{name}" for name in SERVICES]) as pids:
            await _ready(where)
            load, seen = Load(where, owners, rate, minutes * 60), Soak()
            before = await Used.now(where.connection, stack, pids)
            load.start()
            next_look_at_memory = time.time()
            while load.running:
                for name, seconds in (await _behind(where, load)).items():
                    seen.behind[name].append(seconds)
                if time.time() >= next_look_at_memory:
                    next_look_at_memory += MEMORY_SECONDS
                    for name, mib in _resident(pids).items():
                        seen.memory[name].append(((time.time() - load.started) / 60, mib))
                await asyncio.sleep(LOOK_SECONDS)
            load.join()
            ended = time.time()
            await where.caught_up()
            seconds = time.time() - load.started
            used = (await Used.now(where.connection, stack, pids)).since(before, load.sent)
        return {
            "minutes": minutes,
            "rate": rate,
            "sent": load.sent,
            "events_per_second": round(load.sent / seconds),
            "settled_seconds": round(time.time() - ended, 1),
            **seen.figures(),
            **used,
            "debits": await where.debits(),
            "checks": await where.reconciled(),
        }


async def catch_up(stack: Stack, owners: Sequence[str], rate: int, minutes: float) -> dict[str, Any]:
    """Return how long it takes, with the load going on, until nothing is behind after the workers were gone for so many minutes."""
    services = [f"services.{name}" for name in SERVICES]
    async with place(stack, owners) as where:
        await make_customers(where.connection, owners)
        load = Load(where, owners, rate, 60 + minutes * 60 * (PATIENCE + 1))
        with workers(where, services):
            await _ready(where)
            load.start()
            await _until_near(where, load, 60)
        gone = time.time()
        await asyncio.sleep(max(0.0, gone + minutes * 60 - time.time()))
        missed = load.sent - int(await where.connection.fetchval(STORED))
        back, then = time.time(), load.sent
        with workers(where, services):
            seconds = await _until_near(where, load, minutes * 60 * PATIENCE)
            passed, taken = load.sent - then + missed, time.time() - back
            load.stop()
            await where.caught_up()
        return {
            "minutes": minutes,
            "rate": rate,
            "missed": missed,
            "caught_up": seconds is not None,
            "seconds": round(taken, 1),
            "events_per_second": round(passed / taken),
            "checks": await where.reconciled(),
        }


async def _ready(where: Place) -> None:
    while await where.connection.fetchval("SELECT count(*) FROM ingest_positions") < PARTITIONS:
        await asyncio.sleep(0.05)


async def _behind(where: Place, load: Load) -> dict[str, float]:
    """Return by how many seconds each effect is behind the load: the age of the first event that lacks it, 0 where none does."""
    found = {}
    for name, sql in EFFECTS.items():
        done = int(await where.connection.fetchval(sql))
        found[name] = max(0.0, time.time() - load.due_at(done)) if done < load.sent else 0.0
    return found


async def _until_near(where: Place, load: Load, patience_seconds: float) -> float | None:
    """Return after how many seconds every effect keeps up with the load, None where that does not come to be in time."""
    started = time.time()
    while time.time() - started < patience_seconds and load.running:
        behind = await _behind(where, load)
        if load.sent > load.rate and max(behind.values()) < NEAR_SECONDS:
            return time.time() - started
        await asyncio.sleep(LOOK_SECONDS)
    return None


def _resident(pids: Sequence[int]) -> dict[str, float]:
    return {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in zip(SERVICES, pids, strict=True)}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 2), "most": round(max(seconds), 2)}


def level_of(samples: Sequence[tuple[float, float]]) -> Mapping[str, float]:
    """Return the least, the median and the most MiB, and how many MiB a minute it grew by once it was level."""
    level = samples[int(len(samples) * LEVEL_SHARE) :]
    slope = statistics.linear_regression(*zip(*level, strict=True)).slope if len(level) > 1 else 0.0
    sizes = [mib for _, mib in samples]
    return {
        "least": round(min(sizes), 1),
        "median": round(statistics.median(sizes), 1),
        "most": round(max(sizes), 1),
        "mib_a_minute": round(slope, 2),
    }
