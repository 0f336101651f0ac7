"""What came of a chaos run: figures, and the report for a person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from services.billing.reconciliation import Check
from services.cli.demo.books import Expected, Usage


@dataclass(slots=True)
class Result:
    """Figures of one run. Recovery in seconds: from the end of a fault's cause to all workers ready and every service moving again."""

    seed: int
    commit: str
    faults: Counter[str] = field(default_factory=Counter)
    injected: list[str] = field(default_factory=list)
    recovery: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    published: int = 0
    events: int = 0
    traffic: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    double_billed: int = 0
    unbilled: int = 0
    seconds: float = 0.0
    checks: int = 0
    failed_checks: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all was exactly as it must be."""
        return not (self.lost or self.doubled or self.double_billed or self.unbilled or self.failed_checks)

    def struck(self, kind: str, seconds: float | None) -> None:
        """Enter a fault, and how long it took to recover from it; None if that says nothing of this fault."""
        self.faults[kind] += 1
        if seconds is not None:
            self.recovery[kind].append(seconds)

    def sent(self, expected: Expected) -> None:
        """Enter what was sent, by the generator's own books."""
        self.published, self.events = expected.published, expected.inserted
        self.traffic = {"resent": expected.duplicates, "unknown subscription": expected.held, **expected.rejected}

    def compare(self, expected: Expected, stored: Mapping[str, Usage], rated: Mapping[str, int]) -> None:
        """Count what is missing and what is too much, subscription by subscription."""
        for subscription in expected.by_subscription.keys() | stored.keys() | rated.keys():
            sent = expected.by_subscription.get(subscription, Usage()).requests
            kept = stored.get(subscription, Usage()).requests
            billed = rated.get(subscription, 0)
            self.lost += max(0, sent - kept)
            self.doubled += max(0, kept - sent)
            self.double_billed += max(0, billed - sent)
            self.unbilled += max(0, sent - billed)

    def prove(self, checks: Sequence[Check]) -> None:
        """Enter the verdicts of the books and of reconciliation."""
        self.checks = len(checks)
        self.failed_checks = [f"{check.name}: {check.left} / {check.right}" for check in checks if not check.holds]

    def document(self) -> dict[str, Any]:
        """Return the JSON object that `--json` prints."""
        return {
            "seed": self.seed,
            "commit": self.commit,
            "passed": self.passed,
            "faults": self.faults.total(),
            "by_class": dict(self.faults),
            "published": self.published,
            "events": self.events,
            "traffic": self.traffic,
            "lost": self.lost,
            "doubled": self.doubled,
            "double_billed": self.double_billed,
            "unbilled": self.unbilled,
            "recovery_seconds": {
                kind: {"median": round(median(took), 1), "max": round(max(took), 1)}
                for kind, took in sorted(self.recovery.items())
            },
            "seconds": round(self.seconds, 1),
            "checks": self.checks,
            "failed_checks": self.failed_checks,
            "injected": self.injected,
        }

    def markdown(self, command: str) -> str:
        """Return the report as it is kept in docs/."""
        rows = [
            f"| {kind} | {count} | {_seconds(self.recovery.get(kind))} |" for kind, count in self.faults.most_common()
        ]
        refused = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.traffic.items()))
        return "\n".join(
            [
                f"# {self.faults.total():,} faults, {self.events:,} events: {'passed' if self.passed else 'FAILED'}",
                "",
                f"`{command}` at commit `{self.commit}`, seed {self.seed}, {self.seconds:,.0f} s.",
                "",
                f"- {self.published:,} records published, {self.events:,} of them valid, distinct events; besides: {refused}",
                f"- lost {self.lost}, doubled {self.doubled}, double-billed {self.double_billed}, not billed {self.unbilled}",
                f"- {self.checks - len(self.failed_checks)} of {self.checks} checks hold"
                + "".join(f"\n  - DIFFERS: {check}" for check in self.failed_checks),
                "",
                "| fault | injected | recovered in seconds: median (most) |",
                "|---|---:|---:|",
                *rows,
                "",
            ]
        )


def _seconds(took: Sequence[float] | None) -> str:
    return f"{median(took):.1f} ({max(took):.1f})" if took else "–"
