"""Idempotency-Key: a request that is sent again gets the answer that it got, another one with the same key is refused.

In the memory of one process, for a while and up to so many bytes. That is enough, since it protects no money: an event counts once
by its own `(source, id)`, and a request that has been forgotten is taken as a new one and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from services.api.problems import KEY_REUSED, Problem

Name: TypeAlias = tuple[str, str]
"""Whose key, and the key."""

_OVERHEAD: Final = 500
"""About what an entry takes beside its answer, in bytes."""


@dataclass(slots=True)
class _Known:
    fingerprint: bytes
    at: datetime
    answer: bytes | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def size(self) -> int:
        return _OVERHEAD + len(self.answer or b"")


class Replays:
    """The answers of the last requests that had a key. A refusal is not kept: the request may be mended and sent again."""

    def __init__(self, keep: timedelta, most_bytes: int) -> None:
        self._keep, self._most_bytes = keep, most_bytes
        self._known: OrderedDict[Name, _Known] = OrderedDict()
        self._bytes = 0

    async def once(
        self, name: Name, fingerprint: bytes, now: datetime, act: Callable[[], Awaitable[bytes]]
    ) -> tuple[bytes, bool]:
        """Return the answer of `act`, and whether it was given before; the same request at the same time waits for the first one.

        Raises `Problem` if the key is known with another fingerprint, and what `act` raises.
        """
        self._forget(now)
        while (known := self._known.get(name)) is not None:
            if known.fingerprint != fingerprint:
                raise Problem(KEY_REUSED, "this Idempotency-Key was used for another body: give each request its own")
            if known.answer is not None:
                return known.answer, True
            await known.settled.wait()
        known = self._known[name] = _Known(fingerprint, now)
        try:
            known.answer = await act()
            self._bytes += known.size
            return known.answer, False
        finally:
            if known.answer is None:
                del self._known[name]
            known.settled.set()

    def _forget(self, now: datetime) -> None:
        """Drop what is old, and the oldest of what is too much, up to one that is being answered."""
        while self._known:
            name, oldest = next(iter(self._known.items()))
            if oldest.answer is None or (now - oldest.at < self._keep and self._bytes <= self._most_bytes):
                return
            self._bytes -= oldest.size
            del self._known[name]
