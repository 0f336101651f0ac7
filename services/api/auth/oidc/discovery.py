"""What an issuer says of itself (OpenID Connect Discovery): kept, and asked for anew when it is old."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from services.api.auth.oidc.fetching import AWAY, Unanswered, discover
from shared.clock import Clock

log = structlog.get_logger("api.auth")


@dataclass(slots=True)
class Discovery:
    """The document of `issuer`. It is fetched anew when it is older than `fresh`; while that fails, the old one is kept."""

    issuer: str
    tls: ssl.SSLContext
    clock: Clock
    fresh: timedelta
    _document: dict[str, Any] | None = None
    _fetched_at: datetime | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def document(self) -> dict[str, Any]:
        """Return the document. Raises `Unanswered`, and what `AWAY` names, where there is none at all."""
        async with self._asking:  # one asks for all who wait
            now = self.clock.now()
            if self._document is None or self._fetched_at is None or now - self._fetched_at >= self.fresh:
                try:
                    self._document = await discover(self.tls, self.issuer)
                except (Unanswered, *AWAY) as error:
                    if self._document is None:
                        raise
                    log.warning("issuer_not_discovered", issuer=self.issuer, error=repr(error))
                self._fetched_at = now
            return self._document
