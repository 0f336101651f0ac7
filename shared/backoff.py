"""How long to wait before the next try (pure, but for its jitter)."""

from __future__ import annotations

import random

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MOST_SECONDS = 10.0


def backoff(failures: int) -> float:
    """Return seconds to wait after so many failures in a row, one or more: twice as long each time, with jitter."""
    most = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
    return most * random.uniform(0.5, 1.0)  # noqa: S311 – jitter, not a secret
