"""What can go wrong with a local stack, told to a person."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from shared.errors import TallystickError


class LocalStackError(TallystickError):
    """A server of the local stack could not be made, started, found or stopped. Says where its log is."""


def last_line(log: Path) -> str:
    """The last line of a log that says something, or a word in its place; never raises."""
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            tail = deque((line.strip() for line in lines if line.strip()), maxlen=1)
    except OSError:
        return "(no log was written)"
    return tail[0] if tail else "(its log is empty)"
