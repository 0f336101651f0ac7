"""What is injected, and in which order (pure): the same seed gives the same plan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.cli.chaos.failpoints import POINTS

KILL: Final = "worker killed"
FAILPOINT: Final = "worker killed at a commit point"
FREEZE: Final = "worker stopped beyond its session (zombie)"
STORM: Final = "rebalance storm"
BROKER: Final = "broker killed"
POSTGRES: Final = "Postgres killed"
TERMINATE: Final = "sessions terminated"
LOCK: Final = "position row locked"
READ_ONLY: Final = "database read-only"
PARTITION: Final = "month's partition dropped"

WEIGHTS: Final = {
    FAILPOINT: 40,
    KILL: 20,
    TERMINATE: 14,
    LOCK: 8,
    PARTITION: 4,
    READ_ONLY: 4,
    POSTGRES: 4,
    BROKER: 3,
    STORM: 2,
    FREEZE: 2,
}
"""Each class with its share of the faults; every class comes at least once when there are that many faults."""

SLOW: Final = frozenset({BROKER, POSTGRES, STORM, FREEZE, READ_ONLY, LOCK})
"""Classes that take away for a while what others need to recover: who is struck beside one of them is not timed."""

TOGETHER: Final = 3
"""Most faults that strike at once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its class, the worker that it strikes if it strikes one, and at which commit point."""

    kind: str
    worker: str = ""
    point: str = ""
    partition: int = 0
    delay: float = 0.0
    """Seconds from the beginning of its round."""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.worker, self.point)))


def plan(seed: int, faults: int, workers: Sequence[str], partitions: int) -> list[list[Fault]]:
    """Return rounds of faults that strike together. No round has two faults of one worker, nor two of the slow classes."""
    rng = random.Random(seed)
    kinds = list(WEIGHTS)[:faults]
    kinds += rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=faults - len(kinds))
    rng.shuffle(kinds)
    points = [(worker, point) for worker in workers for point in POINTS]
    rng.shuffle(points)
    rounds: list[list[Fault]] = []
    while kinds:
        struck: set[str] = set()
        present: list[Fault] = []
        for kind in [kinds.pop() for _ in range(min(len(kinds), rng.randint(1, TOGETHER)))]:
            fault = _draw(rng, kind, workers, points, partitions)
            if (fault.worker or fault.kind) in struck:
                rounds.append([fault])
            else:
                struck.add(fault.worker or fault.kind)
                present.append(fault)
        rounds.append(present)
    return rounds


def _draw(
    rng: random.Random, kind: str, workers: Sequence[str], points: list[tuple[str, str]], partitions: int
) -> Fault:
    worker = rng.choice(list(workers)) if kind in (KILL, FREEZE) else ""
    point = ""
    if kind == FAILPOINT:  # each worker at each point in turn
        worker, point = points.pop(0)
        points.append((worker, point))
    return Fault(kind, worker, point, rng.randrange(partitions), round(rng.uniform(0, 1.5), 3))
