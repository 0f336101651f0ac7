"""A record of `usage.events` as a gateway publishes it."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """Key, value and headers, as bytes; a value of None is a tombstone."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
