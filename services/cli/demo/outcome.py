"""What came of a demo: the JSON object that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.billing.reconciliation import Check
from services.cli.demo.books import Usage
from services.cli.demo.verdict import Counted


@dataclass(slots=True)
class Outcome:
    """What this run added, and what is true after it. Counts of events, tokens, seconds.

    `seconds` count from the first record sent until all of them were stored, summed up, rated and announced.
    """

    published: int = 0
    inserted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    held: int = 0
    request_tokens: int = 0
    response_tokens: int = 0
    suspended: int = 0
    invoices: int = 0
    invoice_file: str | None = None
    adjustments: int = 0
    reconciled: bool = False
    seconds: float = 0.0
    events_per_second: float = 0.0
    published_per_second: float = 0.0
    workers_restarted: int = 0
    failed_checks: list[str] = field(default_factory=list)

    def sent(self, published: int, seconds: float) -> None:
        """Enter what was published, and how long that took until the broker had all of it."""
        self.published, self.published_per_second = published, round(published / max(seconds, 1e-9), 1)

    def caught_up(self, seconds: float) -> None:
        """Enter how long it took until everything was through."""
        self.seconds, self.events_per_second = round(seconds, 2), round(self.published / max(seconds, 1e-9), 1)

    def enter(self, added: Counted, stored: Mapping[str, Usage]) -> None:
        """Enter what ingest counted, and the tokens that the log holds of what was sent."""
        self.inserted, self.duplicates, self.quarantined, self.held = (
            added.stored,
            added.duplicates,
            added.quarantined,
            added.held,
        )
        self.request_tokens = sum(usage.request_tokens for usage in stored.values())
        self.response_tokens = sum(usage.response_tokens for usage in stored.values())

    def proved(self, checks: Sequence[Check]) -> None:
        """Enter the verdicts."""
        self.failed_checks = [check.name for check in checks if not check.holds]
        self.reconciled = not self.failed_checks
