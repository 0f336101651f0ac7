"""What `/api/v1/events` says of itself in the specification of the API."""

from __future__ import annotations

from typing import Any, Final

from services.api.events.bodies import MANY, MOST_EVENTS, ONE, PLAIN
from services.ingest.reasons import Reason
from shared.contracts import usage_event_schema
from shared.corrections import usage_amend_schema, usage_void_schema


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a published schema without what only makes sense in a file of its own."""
    data = next(iter(schema["$defs"].values()))
    kept = {name: part for name, part in schema.items() if name not in ("$schema", "$id", "$defs")}
    return {**kept, "properties": {**kept["properties"], "data": data}}


EVENT: Final[dict[str, Any]] = {
    "anyOf": [_inlined(schema) for schema in (usage_event_schema(), usage_void_schema(), usage_amend_schema())]
}
_SAME: Final[dict[str, Any]] = {"type": "object", "description": f"As in {ONE}."}
_EVENTS: Final[dict[str, Any]] = {"type": "array", "maxItems": MOST_EVENTS, "items": _SAME}

_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "One CloudEvent, or an array of them; or, with its attributes in `ce-…` headers, the data of one.",
    "content": {
        ONE: {"schema": EVENT},
        MANY: {"schema": _EVENTS},
        PLAIN: {"schema": {"anyOf": [_SAME, _EVENTS]}},
    },
}

ASKED: Final[dict[str, Any]] = {
    "requestBody": _BODY,
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "The same key with the same body gets the same answer, for an hour.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
    ],
}
"""What is sent. The route reads it itself: it is the hot path."""

RESULT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["index", "id", "status"],
    "properties": {
        "index": {"type": "integer", "minimum": 0, "description": "Place in the request."},
        "id": {"type": ["string", "null"], "description": "The event's id, if it can be read."},
        "status": {
            "type": "string",
            "enum": ["accepted", "duplicate", "rejected"],
            "description": "`duplicate`: an event with this source and id came a moment ago; it counts once.",
        },
        "reason": {"type": "string", "enum": [*(reason.value for reason in Reason), "not_yours"]},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
    },
}

TAKEN: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["accepted", "duplicates", "rejected", "results"],
    "properties": {
        "accepted": {"type": "integer", "minimum": 0},
        "duplicates": {"type": "integer", "minimum": 0},
        "rejected": {"type": "integer", "minimum": 0},
        "results": {"type": "array", "items": RESULT},
    },
}

ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "What became of each event, after Kafka acknowledged those that are not rejected.",
        "content": {"application/json": {"schema": TAKEN}},
    }
}
