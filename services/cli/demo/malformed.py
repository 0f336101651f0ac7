"""Records that must be refused, one maker for each kind of trouble (pure)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from services.cli.demo.record import Record
from shared.contracts import MAX_COUNT, SPEC_VERSION, USAGE_TYPE

_encode = msgspec.json.encode
_Document = dict[str, Any]


def _event(event_id: str, subscription_id: str, time: datetime) -> _Document:
    data = {"model": "gpt-4o", "provider": "openai", "request_tokens": 100, "response_tokens": 20}
    return {
        "specversion": SPEC_VERSION,
        "id": event_id,
        "source": "/demo/broken-gateway",
        "type": USAGE_TYPE,
        "time": time.isoformat(),
        "subject": subscription_id,
        "data": data,
    }


def _with(**attributes: Any) -> Callable[[_Document], bytes]:
    return lambda event: _encode({**event, **attributes})


def _with_data(**attributes: Any) -> Callable[[_Document], bytes]:
    return lambda event: _encode({**event, "data": {**event["data"], **attributes}})


def _without(name: str) -> Callable[[_Document], bytes]:
    return lambda event: _encode({key: value for key, value in event.items() if key != name})


def _at(moved: timedelta) -> Callable[[_Document], bytes]:
    return lambda event: _encode({**event, "time": (datetime.fromisoformat(event["time"]) + moved).isoformat()})


MALFORMED: Final[dict[str, Callable[[_Document], bytes | None]]] = {
    "tombstone": lambda _: None,
    "empty": lambda _: b"",
    "not JSON": lambda event: _encode(event)[:-9],
    "not an object": lambda event: _encode([event]),
    "not UTF-8": lambda event: _encode(event).replace(b"gpt-4o", b"gpt-\xff\xfe"),
    "NUL in a text": _with_data(app_id="a\x00b"),
    "text for a number": _with_data(request_tokens="many"),
    "fraction for a number": _with_data(response_tokens=1.5),
    "negative count": _with_data(request_tokens=-1),
    "huge count": _with_data(response_tokens=MAX_COUNT + 1),
    "count beyond 64 bits": lambda event: _encode(event).replace(b":100", b":1" + b"0" * 30),
    "more cached than sent": _with_data(cached_tokens=101),
    "impossible status": _with_data(status_code=7),
    "missing id": _without("id"),
    "missing time": _without("time"),
    "missing data": _without("data"),
    "nobody named": _without("subject"),
    "neither model nor tool": _with_data(model=None),
    "time without zone": lambda event: _encode({**event, "time": event["time"][:19]}),
    "not a time": _with(time="yesterday"),
    "unknown version": _with(specversion="9.9"),
    "unknown type": _with(type="tallystick.usage.v99"),
    "too old": _at(timedelta(days=-400)),
    "too far ahead": _at(timedelta(days=2)),
    "too large": _with_data(metadata={"prompt": "x" * 300_000}),
    "too much metadata": _with_data(metadata={f"key-{n}": n for n in range(40)}),
    "text too long": _with_data(session_id="s" * 600),
}
"""What can be wrong, and how to make such a record from a valid event."""


def malformed(kind: str, event_id: str, subscription_id: str, time: datetime) -> Record:
    """Return a record that is broken in one way of `MALFORMED`."""
    return Record(subscription_id.encode(), MALFORMED[kind](_event(event_id, subscription_id, time)))


def conflicting(original: Record) -> Record:
    """Return a record that claims the identity of `original` with another body: whoever came first stays."""
    assert original.value is not None, "conflicts are made from valid events"  # noqa: S101
    event = msgspec.json.decode(original.value)
    data = event if original.headers else event["data"]
    data["request_tokens"] += 1_000
    return original._replace(value=_encode(event))
