"""Usage events as gateways send them, for the tests of ingest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka import ConsumerRecord

from services.ingest.acceptance import Limits, Rejected, accept
from shared.contracts import USAGE_EVENTS, UsageEvent
from shared.corrections import AMEND_TYPE, VOID_TYPE, AmendEvent, VoidEvent

NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
SUBSCRIPTION: Final = "019a2f6e-0000-7000-8000-000000000001"
Headers = Sequence[tuple[str, bytes | None]]


def document(*, data: Mapping[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    """Return a valid event as JSON types; `data` and `attributes` replace or add, `...` takes away."""
    event = {
        "specversion": "1.0",
        "id": "req-1",
        "source": "/gateways/eu-1",
        "type": "tallystick.usage.v1",
        "time": "2026-11-21T11:59:30.123456Z",
        "subject": SUBSCRIPTION,
        "data": _without_dots({"model": "gpt-4o", "request_tokens": 10, "response_tokens": 5, **(data or {})}),
    }
    return _without_dots(event | attributes)


def structured(*, data: Mapping[str, Any] | None = None, **attributes: Any) -> bytes:
    """Return the bytes of a valid event in structured mode (see `document`)."""
    return json.dumps(document(data=data, **attributes)).encode()


def void(voids: str, **attributes: Any) -> bytes:
    """Return the bytes of an event that takes `voids` back."""
    event = document(**{"id": "void-1", "type": VOID_TYPE, "subject": ..., **attributes})
    return json.dumps({**event, "data": {"voids": voids}}).encode()


def amend(amends: str, *, data: Mapping[str, Any] | None = None, **attributes: Any) -> bytes:
    """Return the bytes of an event that replaces `amends` by `data`."""
    return structured(data={"amends": amends, **(data or {})}, **{"id": "amend-1", "type": AMEND_TYPE, **attributes})


def binary(*, data: Mapping[str, Any] | None = None, **attributes: Any) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    """Return the body and the headers of a valid event in binary mode (see `document`)."""
    event = document(data=data, **attributes)
    body = json.dumps(event.pop("data")).encode()
    return body, [(f"ce_{name}", str(content).encode()) for name, content in event.items()]


def judge(
    value: bytes | None, headers: Headers = (), *, limits: Limits | None = None
) -> UsageEvent | VoidEvent | AmendEvent | Rejected:
    """Return what acceptance says at `NOW`."""
    limits = limits or Limits()
    return accept(value, headers, limits, *limits.window(NOW))


def record(
    value: bytes | None,
    *,
    offset: int = 0,
    partition: int = 0,
    key: bytes | None = SUBSCRIPTION.encode(),
    headers: Headers = (),
    timestamp: int = 0,
    topic: str = USAGE_EVENTS,
) -> ConsumerRecord[bytes, bytes]:
    """Return a Kafka record as aiokafka hands it over."""
    return ConsumerRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=timestamp,
        timestamp_type=0,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=-1 if key is None else len(key),
        serialized_value_size=-1 if value is None else len(value),
        headers=tuple(headers),
    )


def _without_dots(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: content for name, content in fields.items() if content is not ...}
