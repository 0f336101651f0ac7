"""Refusals as problem+json (RFC 9457): each has a stable type, and says what to do (pure). services/api/answering.py answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MEDIA_TYPE: Final = "application/problem+json"
PREFIX: Final = "urn:tallystick:problem:"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its type is `urn:tallystick:problem:<slug>`."""

    slug: str
    status: int
    title: str
    advice: str = ""
    """What whoever gets it should do, for the reference."""

    @property
    def type(self) -> str:
        return PREFIX + self.slug


INVALID_REQUEST: Final = Kind(
    "invalid-request",
    422,
    "The request is not valid",
    "Mend the fields that `errors` names; the same request will be refused again.",
)
MALFORMED: Final = Kind(
    "malformed",
    400,
    "The request cannot be read",
    "Mend the request: it is no JSON, or a parameter such as a cursor is damaged.",
)
UNAUTHENTICATED: Final = Kind(
    "unauthenticated",
    401,
    "No valid credential was given",
    "Send a valid API key or access token; get a new token if it has expired.",
)
FORBIDDEN: Final = Kind(
    "forbidden",
    403,
    "The credential does not allow this",
    "Ask with a credential that has the role that `detail` names.",
)
INSUFFICIENT_CREDITS: Final = Kind(
    "insufficient-credits",
    402,
    "There are not enough credits",
    "Buy credits, or ask for less; `detail` says how much is missing.",
)
NOT_FOUND: Final = Kind(
    "not-found", 404, "There is no such thing", "Check the id. What belongs to somebody else looks the same."
)
METHOD_NOT_ALLOWED: Final = Kind(
    "method-not-allowed", 405, "The method is not allowed here", "Use a method that the reference lists for this path."
)
NOT_ACCEPTABLE: Final = Kind(
    "not-acceptable", 406, "The answer cannot be given in this form", "Ask for a form that the reference lists."
)
CONFLICT: Final = Kind(
    "conflict",
    409,
    "The state of things does not allow this",
    "Look at the present state first; repeating the request does not help.",
)
LIMIT_EXCEEDED: Final = Kind(
    "limit-exceeded",
    409,
    "A limit would be exceeded",
    "Wait for the reset, or ask for less; `reasons` and `remaining` say what is left.",
)
TOO_LARGE: Final = Kind("payload-too-large", 413, "The body is too large", "Send less at once.")
UNSUPPORTED: Final = Kind(
    "unsupported-media-type",
    415,
    "The body has a form that is not known here",
    "Send a content type and encoding that the reference lists.",
)
KEY_REUSED: Final = Kind(
    "idempotency-key-reused",
    422,
    "The idempotency key was used for another request",
    "Use a new Idempotency-Key for another request.",
)
RATE_LIMITED: Final = Kind("rate-limited", 429, "There are too many requests", "Wait for as long as Retry-After says.")
INTERNAL: Final = Kind(
    "internal", 500, "Something is wrong on our side", "Report it with the X-Request-Id of the answer."
)
UNAVAILABLE: Final = Kind(
    "unavailable",
    503,
    "A server that this needs does not answer",
    "Try again after Retry-After; events that were not acknowledged must be sent again.",
)

KINDS: Final = tuple(kind for kind in vars().copy().values() if isinstance(kind, Kind))
BY_STATUS: Final = {kind.status: kind for kind in reversed(KINDS)}

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "enum": [kind.type for kind in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "instance": {"type": "string", "description": "`urn:request:` and the X-Request-Id of the request."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
"""The JSON Schema of a problem; a kind may have members of its own beside these."""


class Problem(Exception):
    """A refusal. `detail` is for a person and says what to do; `more` are members of the answer beside the standard ones."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.headers = kind, detail, dict(headers or {})
        self.errors, self.more = list(errors), dict(more or {})


def invalid(field: str, message: str) -> Problem:
    """Return the refusal of one parameter, named as refusals of the framework name it: `query.from`."""
    return Problem(INVALID_REQUEST, f"{field}: {message}", errors=[{"field": field, "message": message}])
