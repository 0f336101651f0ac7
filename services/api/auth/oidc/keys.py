"""The keys that an identity provider signs with: fetched, kept, fetched again when a token names one that is not among them."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import structlog

from services.api import metrics
from services.api.auth.oidc.fetching import AWAY, Unanswered, discover, fetch_json
from shared.clock import Clock
from shared.errors import ConfigurationError, ServiceUnavailable

log = structlog.get_logger("api.auth")

ASK_AGAIN: Final = timedelta(seconds=30)
"""How long the provider is not asked again, whatever keys tokens name: who sends nonsense must not make us hammer it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key, the kind that it is (RSA, EC, OKP), and the one algorithm that it is for, if its issuer says so."""

    key: Any
    kind: str
    algorithm: str | None

    def fits(self, algorithm: str) -> bool:
        """Tell whether signatures of this algorithm can be checked with it."""
        return self.kind == _KIND[algorithm[:2]] and self.algorithm in (None, algorithm)


_KIND: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


@dataclass(slots=True)
class Keys:
    """The key set of `issuer`. It is fetched anew when it is older than `fresh`; while that fails, the old one is kept."""

    issuer: str
    jwks_url: str
    clock: Clock
    fresh: timedelta
    tls: ssl.SSLContext
    _keys: dict[str, SigningKey] = field(default_factory=dict)
    _fetched_at: datetime | None = None
    _asked_at: datetime | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find(self, kid: str | None) -> SigningKey | None:
        """Return the key of this name, or the only one where a token names none. Raises `ServiceUnavailable` while there is none at all."""
        if self._is_old() or self._pick(kid) is None:
            async with self._asking:  # one asks for all who wait
                if self._may_ask() and (self._is_old() or self._pick(kid) is None):
                    await self._fetch()
        if not self._keys:
            raise ServiceUnavailable(
                f"the identity provider does not answer at {urlsplit(self.issuer).netloc}: try again"
            )
        return self._pick(kid)

    def _pick(self, kid: str | None) -> SigningKey | None:
        if kid is not None:
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    def _is_old(self) -> bool:
        return self._fetched_at is None or self.clock.now() - self._fetched_at >= self.fresh

    def _may_ask(self) -> bool:
        return self._asked_at is None or self.clock.now() - self._asked_at >= ASK_AGAIN

    async def _fetch(self) -> None:
        self._asked_at = self.clock.now()
        try:
            url = self.jwks_url or await self._discover()
            found = _usable(await fetch_json(self.tls, url))
            if not found:
                raise Unanswered(f"{url} holds no key that can be used")
        except (Unanswered, *AWAY) as error:
            metrics.KEY_FETCHES.labels("failed").inc()
            log.warning("keys_of_issuer_not_fetched", issuer=self.issuer, error=repr(error), kept=len(self._keys))
            return
        metrics.KEY_FETCHES.labels("done").inc()
        self._keys, self._fetched_at = found, self._asked_at

    async def _discover(self) -> str:
        document = await discover(self.tls, self.issuer)
        if document.get("issuer") != self.issuer:
            raise Unanswered(
                f"the issuer calls itself {document.get('issuer')!r}: set TALLYSTICK_OIDC_ISSUER to just that"
            )
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not is_safe(url):
            raise Unanswered(f"the issuer's jwks_uri is {url!r}")
        return url


def is_safe(url: str) -> bool:
    """Tell whether keys may be fetched there: over TLS, or from this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return how certificates are checked. Raises `ConfigurationError`."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"TALLYSTICK_OIDC_CA_FILE cannot be read ({error})") from None


def _usable(document: dict[str, Any]) -> dict[str, SigningKey]:
    """Return the keys of a set that signatures are checked with, by name; those that we do not understand are left out."""
    found: dict[str, SigningKey] = {}
    listed = document.get("keys")
    for number, key in enumerate(listed if isinstance(listed, list) else []):
        if not isinstance(key, dict) or key.get("use", "sig") != "sig" or key.get("kty") == "oct":
            continue
        try:
            made = jwt.PyJWK(key)
            found[str(key.get("kid", number))] = SigningKey(made.key, str(key.get("kty")), key.get("alg"))
        except jwt.PyJWTError:
            continue
    return found
