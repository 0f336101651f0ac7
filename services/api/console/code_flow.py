"""Signing in at an identity provider: OpenID Connect's authorization code with PKCE (RFC 7636)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import ssl
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

import structlog

from services.api.auth.oidc.discovery import Discovery
from services.api.auth.oidc.fetching import AWAY, Unanswered, fetch_json
from services.api.auth.oidc.keys import is_safe, tls_context
from services.api.console.wording import N_
from services.api.settings import Settings
from shared.clock import Clock
from shared.errors import ConfigurationError, ServiceUnavailable

log = structlog.get_logger("api.auth")


class Refused(Exception):
    """The identity provider did not sign somebody in, or what came back was not what was begun."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a browser keeps while somebody is at the identity provider."""

    state: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Got:
    """The tokens that a code was exchanged for."""

    access_token: str
    refresh_token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class CodeFlow:
    """The console as a client of one issuer; with a secret a confidential one."""

    discovery: Discovery
    client_id: str
    client_secret: str
    scopes: str
    tls: ssl.SSLContext

    async def begin(self, redirect_uri: str) -> tuple[str, Begun]:
        """Return where to send the browser, and what it keeps meanwhile. Raises `ServiceUnavailable`."""
        begun = Begun(secrets.token_urlsafe(24), secrets.token_urlsafe(48))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(begun.verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code", "client_id": self.client_id, "redirect_uri": redirect_uri, "scope": self.scopes,
            "state": begun.state, "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        where = await self._endpoint("authorization_endpoint")
        return f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}", begun

    async def finish(self, begun: Begun, code: str, state: str, redirect_uri: str) -> Got:
        """Exchange a code for tokens. Raises `Refused` and `ServiceUnavailable`."""
        if not hmac.compare_digest(begun.state.encode(), state.encode()) or not code:
            raise Refused(N_("the answer belongs to another attempt to sign in"))
        return await self._exchange(
            {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": begun.verifier}
        )  # fmt: skip

    async def refresh(self, token: str) -> Got | None:
        """Return new tokens for a refresh token; None where it is not valid any more. Raises `ServiceUnavailable`."""
        try:
            return await self._exchange({"grant_type": "refresh_token", "refresh_token": token})
        except Refused:
            return None

    async def _exchange(self, fields: dict[str, str]) -> Got:
        who = {"client_id": self.client_id}
        if self.client_secret:
            who["client_secret"] = self.client_secret
        where = await self._endpoint("token_endpoint")
        try:
            found = await fetch_json(self.tls, where, form={**fields, **who})
        except Unanswered as error:
            log.info("code_refused", why=str(error))
            raise Refused(N_("it refused the code")) from error
        except AWAY as error:
            raise self._away() from error
        access, refresh, seconds = found.get("access_token"), found.get("refresh_token"), found.get("expires_in", 300)
        if not isinstance(access, str) or not isinstance(seconds, int):
            raise Refused(N_("it gave no access token"))
        return Got(access, refresh if isinstance(refresh, str) else "", seconds)

    async def _endpoint(self, name: str) -> str:
        try:
            found = await self.discovery.document()
        except (Unanswered, *AWAY) as error:
            raise self._away() from error
        where = found.get(name)
        if not isinstance(where, str) or not is_safe(where):
            raise ServiceUnavailable(f"the identity provider's {name} is {where!r}: it has to be https")
        return where

    def _away(self) -> ServiceUnavailable:
        return ServiceUnavailable("the identity provider does not answer: try again")


def code_flow_of(settings: Settings, clock: Clock) -> CodeFlow | None:
    """Return how the console signs in at the identity provider; None where that is not set. Raises `ConfigurationError`."""
    if not settings.oidc_client_id:
        return None
    if not settings.oidc_issuer:
        raise ConfigurationError(
            "TALLYSTICK_OIDC_CLIENT_ID is set, and TALLYSTICK_OIDC_ISSUER is not: who is it a client of?"
        )
    tls = tls_context(settings.oidc_ca_file)
    return CodeFlow(
        Discovery(settings.oidc_issuer, tls, clock, timedelta(seconds=settings.oidc_keys_seconds)),
        settings.oidc_client_id,
        settings.oidc_client_secret.get_secret_value(),
        settings.oidc_scopes,
        tls,
    )
