"""What came of a chaos run: its figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from services.billing.reconciliation import Check
from services.cli.chaos import faults
from services.cli.chaos.faults import Fault
from services.cli.chaos.memory import MOST_MIB

RECOVERY_LIMITS: Final = {
    faults.KILL: 15.0,
    faults.KILL_AT_POINT: 15.0,
    faults.POSTGRES: 30.0,
    faults.POSTGRES_AWAY: 30.0,
    faults.BROKER: 60.0,
    faults.BROKER_AWAY: 60.0,
}
"""Seconds within which everything must move again."""


@dataclass(slots=True)
class Result:
    """Figures of one run. Recovery in seconds: from the end of a fault's cause to all workers ready, all services moving, lag falling."""

    command: str
    seed: int
    commit: str
    machine: str
    planned: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    """Faults that did not come about, since their point was not passed in time."""
    points: Counter[str] = field(default_factory=Counter)
    injected: list[str] = field(default_factory=list)
    recovery: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    told: dict[str, list[float]] = field(default_factory=dict)
    record_faults: dict[str, int] = field(default_factory=dict)
    announced_losses: int = 0
    published: int = 0
    events: int = 0
    invoices: int = 0
    lost: int = 0
    doubled: int = 0
    double_billed: int = 0
    unbilled: int = 0
    seconds: float = 0.0
    striking_seconds: float = 0.0
    checks: int = 0
    failed_checks: list[str] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    memory_over_time: list[dict[str, float]] = field(default_factory=list)
    disk_is_real: bool = False
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether all was exactly as it must be."""
        return not (self.lost or self.doubled or self.double_billed or self.unbilled or self.failed_checks)

    def struck(self, fault: Fault, *, came_about: bool) -> None:
        """Enter a fault. One at a commit point that was not passed is another one, or none."""
        if came_about:
            self.faults[fault.kind] += 1
            if fault.point:
                self.points[f"{fault.point} ({fault.kind})"] += 1
        else:
            self.missed[fault.kind] += 1
            if fault.kind == faults.KILL_AT_POINT:  # it was killed where it was
                self.faults[faults.KILL] += 1

    def recovered(self, kind: str, seconds: float) -> None:
        """Enter how long it took to recover from a fault that struck alone."""
        self.recovery[kind].append(seconds)

    def prove(self, checks: Sequence[Check]) -> None:
        """Enter verdicts."""
        self.checks += len(checks)
        self.failed_checks += [
            f"{check.name}: {check.left} / {check.right} {'; '.join(check.differing[:3])}"
            for check in checks
            if not check.holds
        ]

    def prove_limits(self) -> None:
        """Enter whether recovery and memory stayed within their limits."""
        within = {kind: max(took) for kind, took in self.recovery.items() if kind in RECOVERY_LIMITS}
        self.checks += len(within) + len(self.memory)
        self.failed_checks += [
            f"recovery after '{kind}': {most:.1f} s, {RECOVERY_LIMITS[kind]:.0f} are the limit"
            for kind, most in within.items()
            if most > RECOVERY_LIMITS[kind]
        ]
        self.failed_checks += [
            f"memory of {service}: {most:.0f} MiB, {MOST_MIB:.0f} are the limit"
            for service, most in self.memory.items()
            if most > MOST_MIB
        ]

    def document(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "command": self.command,
            "seed": self.seed,
            "commit": self.commit,
            "passed": self.passed,
            "interrupted": self.interrupted,
            "faults": self.faults.total(),
            "planned": self.planned,
            "by_class": dict(self.faults),
            "missed": dict(self.missed),
            "by_point": dict(sorted(self.points.items())),
            "record_faults": self.record_faults,
            "published": self.published,
            "events": self.events,
            "announced_losses": self.announced_losses,
            "invoices": self.invoices,
            "lost": self.lost,
            "doubled": self.doubled,
            "double_billed": self.double_billed,
            "unbilled": self.unbilled,
            "recovery_seconds": summary(self.recovery),
            "told_seconds": summary(self.told),
            "memory_mib": {service: round(most) for service, most in self.memory.items()},
            "seconds": round(self.seconds, 1),
            "checks": self.checks,
            "failed_checks": self.failed_checks,
            "injected": self.injected,
        }


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return the number, the median and the largest of the times of each class."""
    return {
        kind: {"timed": len(took), "median": round(median(took), 1), "max": round(max(took), 1)}
        for kind, took in sorted(times.items())
    }
