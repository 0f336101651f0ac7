"""What the HTTP API says about a subscription: may it go on, and the room that a request reserves."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from tallystick.errors import ApiAway, ApiError, LimitExceeded
from tallystick.web import Answer, Web, explanation, problem, retry_after

_BUSY: Final = frozenset({429, 500, 502, 503, 504})
_JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Entitlement:
    """May this subscription go on? `reasons` say why not, `remaining` what is left (None: no limit applies), `as_of` when that was so."""

    subscription: str
    allowed: bool
    status: str
    reasons: tuple[str, ...]
    remaining: Mapping[str, Any]
    reset_at: datetime | None
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class Hold:
    """Room that is held for a request until `expires_at`, or until its usage event, which carries `id` as `reservation_id`, settles it."""

    id: str
    subscription: str
    expires_at: datetime
    remaining: Mapping[str, Any]


class Entitlements:
    """The part of the API that answers before a request is served. Raises `ApiAway` when it does not answer, `ApiError` when it refuses."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def entitlement(self, subscription: str, *, api_key_id: str | None = None) -> Entitlement:
        """Return what a subscription may still use."""
        query = f"?{urlencode({'api_key_id': api_key_id})}" if api_key_id else ""
        return _entitlement(self._ask("GET", f"/api/v1/entitlements/{quote(subscription, safe='')}{query}"))

    def check(
        self,
        *,
        subscription: str | None = None,
        api_key_id: str | None = None,
        api_key_hash: str | None = None,
        count: bool = True,
    ) -> Entitlement:
        """Return the same for whoever a key belongs to; with `count` this request counts against the limit by minute."""
        asked = {"subscription": subscription, "api_key_id": api_key_id, "api_key_hash": api_key_hash, "count": count}
        return _entitlement(self._ask("POST", "/api/v1/entitlements/check", asked))

    def reserve(
        self,
        *,
        subscription: str | None = None,
        api_key_hash: str | None = None,
        requests: int = 1,
        tokens: int = 0,
        credits: str | None = None,  # noqa: A002 – what the API calls them
        model: str | None = None,
        ttl_seconds: int = 600,
        idempotency_key: str | None = None,
    ) -> Hold:
        """Hold room for a request, or be refused with `LimitExceeded`. Asked again with the same idempotency key it holds once."""
        asked = {
            "subscription": subscription, "api_key_hash": api_key_hash, "requests": requests, "tokens": tokens,
            "credits": credits, "model": model, "ttl_seconds": ttl_seconds,
        }  # fmt: skip
        said = self._ask(
            "POST", "/api/v1/reservations", asked, {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        )
        return Hold(
            str(said["id"]),
            str(said.get("subscription") or subscription or ""),
            datetime.fromisoformat(said["expires_at"]),
            said.get("remaining") or {},
        )

    def cancel(self, reservation: str) -> None:
        """Give back what is held, for a request that will not be served. Nothing happens if it is settled, cancelled or expired already."""
        try:
            self._ask("DELETE", f"/api/v1/reservations/{quote(reservation, safe='')}")
        except ApiError as error:
            if error.status not in (404, 409, 410):
                raise

    def _ask(
        self, method: str, path: str, asked: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        body = (
            None
            if asked is None
            else json.dumps({name: value for name, value in asked.items() if value is not None}).encode()
        )
        answer = self._web.request(method, path, body, {**(_JSON if body else {}), **(headers or {})})
        if answer.status < 300:
            return answer.content or {}
        raise _refusal(answer)


def _refusal(answer: Answer) -> ApiError | ApiAway:
    slug, said = problem(answer), explanation(answer)
    if slug == "limit-exceeded":
        return LimitExceeded(answer.status, slug, said, tuple(map(str, answer.content.get("reasons") or ())))
    if answer.status in _BUSY:
        return ApiAway(said, retry_after(answer))
    return ApiError(answer.status, slug, said)


def _entitlement(said: Any) -> Entitlement:
    return Entitlement(
        subscription=str(said["subscription"]),
        allowed=bool(said["allowed"]),
        status=str(said.get("status") or ""),
        reasons=tuple(map(str, said.get("reasons") or ())),
        remaining=said.get("remaining") or {},
        reset_at=_time(said.get("reset_at")),
        as_of=_time(said.get("as_of")),
    )


def _time(said: str | None) -> datetime | None:
    return datetime.fromisoformat(said) if said else None
