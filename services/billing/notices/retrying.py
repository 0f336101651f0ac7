"""What an attempt to deliver leads to (pure): done, again later, given up; and when an endpoint has failed too long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

FIRST_DELAY = timedelta(seconds=5)
GROWTH = 4
LONGEST_DELAY = timedelta(hours=12)
FAILURES_TO_DISABLE = 5
"""An endpoint that nobody writes to fails seldom: it takes so many failures in a row, besides the time, to disable it."""

Outcome = Literal["delivered", "refused", "redirected", "timeout", "unreachable", "forbidden", "unsigned"]
GONE = 410


@dataclass(frozen=True, slots=True)
class Attempted:
    """What one request came to. `retry_after` is what the endpoint asked for."""

    outcome: Outcome
    latency: timedelta
    response_status: int | None = None
    detail: str | None = None
    retry_after: timedelta | None = None

    @property
    def gone(self) -> bool:
        """Whether the endpoint says that it wants nothing any more."""
        return self.response_status == GONE


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to try: so many failures of one delivery, so long without any success of an endpoint."""

    attempts: int = 12
    disable_after: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery: `next_attempt_at` where it is still pending."""

    status: Literal["pending", "delivered", "failed"]
    next_attempt_at: datetime | None = None


def judge(attempted: Attempted, failures: int, now: datetime, policy: Policy, dice: float) -> Verdict:
    """Decide what becomes of a delivery that has failed `failures` times, this attempt included. `dice` in [0, 1) spreads retries."""
    if attempted.outcome == "delivered":
        return Verdict("delivered")
    if failures >= policy.attempts:
        return Verdict("failed")
    return Verdict("pending", now + max(delay(failures, dice), attempted.retry_after or timedelta(0)))


def delay(failures: int, dice: float) -> timedelta:
    """Return how long to wait after the given number of failures: exponential, up to a limit, half of it left to the dice."""
    whole = min(LONGEST_DELAY, FIRST_DELAY * int(GROWTH ** min(failures - 1, 20)))
    return whole * (0.5 + dice / 2)


def why_disable(
    attempted: Attempted, failures: int, failing_since: datetime, now: datetime, policy: Policy
) -> str | None:
    """Say why an endpoint, with so many failures since its last success, is not written to any more; None while it is."""
    last = attempted.detail or attempted.outcome
    if attempted.gone:
        return "it answered 410 Gone"
    if failures >= FAILURES_TO_DISABLE and now - failing_since >= policy.disable_after:
        return f"{failures} attempts since {failing_since:%Y-%m-%d %H:%M} UTC failed, the last: {last}"
    return None
