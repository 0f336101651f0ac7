"""What the doctor says: how bad it is, what it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
ORDER: Final[tuple[Severity, ...]] = ("error", "warning", "note")
"""`error`: something is lost, wrong or stopped, or will be any moment. `warning`: it will come to that. `note`: good to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    check: str
    what: str
    do: str
