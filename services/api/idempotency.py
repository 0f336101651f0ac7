"""The key that makes a request that moves something harmless to repeat."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own, new for each thing that is asked for: a request that is repeated with its key has one effect.",
    ),
]
"""Required where it stands."""
