"""A usage record: the stored row of an accepted event, as a tuple in the order of `COLUMNS` (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import msgspec

from services.ingest.acceptance import in_utc
from shared.contracts import UsageEvent
from shared.corrections import AmendEvent
from shared.ids import uuid_of_bytes

_encode = msgspec.json.encode


class UsageRow(NamedTuple):
    """One row of `usage_logs`; the fields are its columns. Tokens are counts, times UTC."""

    created_at: datetime
    id: UUID
    subscription_id: UUID
    api_key_id: UUID | None
    batch_id: UUID
    model_id: str | None
    tool_name: str | None
    provider: str | None
    request_tokens: int
    response_tokens: int
    cached_tokens: int
    tokens_returned: int | None
    latency_ms: int | None
    status_code: int
    error_message: str | None
    power_level: str
    byok: bool
    feature_type: str | None
    library_id: str | None
    reservation_id: str | None
    app_id: str | None
    session_id: str | None
    end_user: str | None
    source: str
    request_id: str
    metadata: str | None


_new_row = UsageRow._make  # from a tuple display: a third faster than 26 arguments
COLUMNS = UsageRow._fields
CONTENT = tuple(name for name in COLUMNS if name not in ("batch_id", "metadata"))
"""The columns that two deliveries of one event must share; metadata is compared as JSON beside them."""


def usage_row(
    event: UsageEvent | AmendEvent, key: bytes, subscription_id: UUID, api_key_id: UUID | None, batch_id: UUID
) -> UsageRow:
    """Return the row of an accepted event. `key` is its 16-byte stored id (`shared.ids.event_key`)."""
    data = event.data
    return _new_row(
        (
            in_utc(event.time),
            uuid_of_bytes(key),
            subscription_id,
            api_key_id,
            batch_id,
            data.model,
            data.tool_name,
            data.provider,
            data.request_tokens,
            data.response_tokens,
            data.cached_tokens,
            data.tokens_returned,
            data.latency_ms,
            data.status_code,
            data.error_message,
            data.power_level or "balanced",
            data.byok,
            data.feature_type,
            data.library_id,
            data.reservation_id,
            data.app_id,
            data.session_id,
            data.end_user,
            event.source,
            event.id,
            None if data.metadata is None else _encode(data.metadata).decode(),
        )
    )


def differing_columns(row: UsageRow, stored: Mapping[str, object]) -> list[str]:
    """Return the columns in which a row differs from a stored one of the same identity; none means a plain duplicate."""
    differing = [name for name in CONTENT if getattr(row, name) != stored[name]]
    mine, theirs = (None if m is None else _exactly(str(m)) for m in (row.metadata, stored["metadata"]))
    return [*differing, "metadata"] if mine != theirs else differing


def _exactly(metadata: str) -> object:
    """Decode JSON with its numbers as they are written: jsonb gives 1e23 back as an integer, which no float equals."""
    return json.loads(metadata, parse_float=Decimal, parse_int=Decimal)
