"""What is injected, and in which order (pure): the same seed gives the same plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.cli.chaos.points import points

KILL: Final = "worker killed"
KILL_AT_POINT: Final = "worker killed at a commit point"
CUT: Final = "connection to the database lost at a commit point"
STALL: Final = "worker slow at a commit point, holding its locks"
PUBLISH: Final = "publishing fails, before or after the broker has it"
COORDINATOR: Final = "group's coordinator lost"
PAUSE: Final = "worker stopped for a moment"
FREEZE: Final = "worker stopped beyond its session (zombie)"
STORM: Final = "rebalance storm"
SESSION: Final = "database session terminated"
SESSIONS: Final = "all database sessions terminated"
LOCK: Final = "row locked"
LOCK_TIMEOUT: Final = "lock timeout"
PARTITION: Final = "month's partition missing"
READ_ONLY: Final = "database read-only"
DISK_FULL: Final = "disk full"
SILENT: Final = "database does not answer"
POSTGRES: Final = "Postgres killed"
POSTGRES_AWAY: Final = "Postgres away for long"
BROKER: Final = "broker killed"
BROKER_AWAY: Final = "broker away for long"
CLOSING: Final = "period closed twice at once, one killed"
CLOCK: Final = "clocks a day off"
RETENTION: Final = "retention overran the position"
TOPIC: Final = "topic recreated"

WEIGHTS: Final = {
    CUT: 2_500,
    KILL_AT_POINT: 2_100,
    SESSION: 2_000,
    PUBLISH: 800,
    COORDINATOR: 500,
    PAUSE: 500,
    STALL: 450,
    KILL: 350,
    LOCK: 250,
    CLOSING: 200,
    PARTITION: 100,
    LOCK_TIMEOUT: 80,
    SESSIONS: 80,
    READ_ONLY: 25,
    DISK_FULL: 20,
    STORM: 10,
    POSTGRES: 10,
    SILENT: 8,
    FREEZE: 8,
    BROKER: 8,
    CLOCK: 6,
    RETENTION: 5,
    TOPIC: 1,
    POSTGRES_AWAY: 0,
    BROKER_AWAY: 0,
}
"""Each class with its share of the faults; every class comes at least once when there are that many faults."""

ALONE: Final = frozenset({TOPIC, RETENTION, CLOCK, POSTGRES_AWAY, BROKER_AWAY})
"""Classes beside which nothing else strikes: a person has to decide in them, or the model has to know who read what."""
OF_A_WORKER: Final = frozenset({KILL, KILL_AT_POINT, CUT, STALL, PUBLISH, COORDINATOR, PAUSE, FREEZE})
AT_A_POINT: Final = frozenset({KILL_AT_POINT, CUT, STALL, PUBLISH})
LANES: Final = {
    **dict.fromkeys((SESSION, SESSIONS), "sessions"),
    **dict.fromkeys((LOCK, LOCK_TIMEOUT), "locks"),
    **dict.fromkeys((READ_ONLY, DISK_FULL, SILENT, POSTGRES), "database"),
    BROKER: "broker",
    STORM: "storm",
    PARTITION: "partition",
    CLOSING: "closing",
}
"""Who is struck, where it is no worker: two faults of one lane do not strike at once."""

TIMED: Final = frozenset(WEIGHTS) - {PAUSE, STALL, CLOSING, CLOCK, PARTITION}
"""Classes that something recovers from."""
SAMPLE: Final = 2_500
"""One fault of each of them is timed, alone, and one more for so many faults of the run."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its class, the worker and the commit point that it strikes, if any. `number` decides what else is to be chosen."""

    kind: str
    worker: str = ""
    point: str = ""
    number: int = 0
    timed: bool = False

    @property
    def lane(self) -> str:
        """What it takes hold of."""
        return self.worker or LANES.get(self.kind, self.kind)

    @property
    def alone(self) -> bool:
        """Whether nothing else may strike beside it."""
        return self.timed or self.kind in ALONE

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.kind, " ".join(filter(None, (self.worker, self.point))))))


def plan(seed: int, faults: int, workers: Sequence[str]) -> list[Fault]:
    """Return the faults of a run in the order in which they strike; each worker is struck at each of its points in turn."""
    rng = random.Random(seed)
    kinds = list(WEIGHTS)[:faults]
    kinds += rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=faults - len(kinds))
    rng.shuffle(kinds)
    choose = _Points(rng, workers)
    most, seen, found = 1 + faults // SAMPLE, Counter[str](), list[Fault]()
    for kind in kinds:
        worker, point = choose(kind)
        found.append(Fault(kind, worker, point, rng.randrange(1 << 30), timed=kind in TIMED and seen[kind] < most))
        seen[kind] += 1
    return found


class _Points:
    """Deals out workers and points. Workers take turns, so that faults of several of them can strike at once."""

    def __init__(self, rng: random.Random, workers: Sequence[str]) -> None:
        self._rng = rng
        self._turns = rng.sample(list(workers), len(workers))
        self._left: dict[tuple[str, str], list[str]] = {}

    def __call__(self, kind: str) -> tuple[str, str]:
        if kind == CLOSING:
            return "", self._next(kind, "", points("closing"))
        if kind in AT_A_POINT:
            fitting = {w: [p for p in points(service_of(w)) if _fits(kind, p)] for w in self._turns}
            worker = self._turn({w for w, found in fitting.items() if found})
            return worker, self._next(kind, worker, fitting[worker])
        return (self._turn(set(self._turns)), "") if kind in OF_A_WORKER else ("", "")

    def _turn(self, fitting: set[str]) -> str:
        """Return the one among `fitting` that was not struck for longest."""
        worker = next(w for w in self._turns if w in fitting)
        self._turns.remove(worker)
        self._turns.append(worker)
        return worker

    def _next(self, kind: str, worker: str, all_: Sequence[str]) -> str:
        if not self._left.get((kind, worker)):
            self._left[kind, worker] = self._rng.sample(all_, len(all_))
        return self._left[kind, worker].pop()


def _fits(kind: str, point: str) -> bool:
    edge = point.partition("_")[2]
    if kind == PUBLISH:
        return edge == "publish"
    return kind == KILL_AT_POINT or edge not in ("publish", "kafka_commit")


def service_of(worker: str) -> str:
    """Return the service of a worker's name."""
    return worker.rpartition("-")[0]
