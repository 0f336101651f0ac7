"""What is kept of an archived month beside its rows (pure): names, sums and checksum, to recognise it by."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct

from shared.errors import TallystickError
from shared.period import Period

_FIRST_COLUMNS: Final = {
    "created_at": "timestamptz", "id": "uuid", "subscription_id": "uuid", "api_key_id": "uuid", "batch_id": "uuid",
    "model_id": "text", "tool_name": "text", "provider": "text", "request_tokens": "bigint", "response_tokens": "bigint",
    "cached_tokens": "bigint", "tokens_returned": "bigint", "latency_ms": "integer", "status_code": "smallint",
    "error_message": "text", "power_level": "text", "byok": "boolean", "feature_type": "text", "library_id": "text",
    "reservation_id": "text", "app_id": "text", "session_id": "text", "end_user": "text", "source": "text",
    "request_id": "text", "metadata": "jsonb", "ingested_at": "timestamptz",
}  # fmt: skip
FORMATS: Final = {
    1: _FIRST_COLUMNS,
    2: {**_FIRST_COLUMNS, "quantity": "smallint", "corrects": "uuid", "corrected_at": "timestamptz"},
}
"""The columns of usage_logs that each format of archive has, all that are not derived, with their types. Any of them can be restored."""
FORMAT: Final = max(FORMATS)
COLUMNS: Final = FORMATS[FORMAT]
"""Those of the archives that are written now."""


class PartitionError(TallystickError):
    """A month cannot be archived or restored. Says which, why, and what to do."""


class Sums(Struct, frozen=True):
    """What the rows of a month sum to, and between which event times they lie."""

    rows: int
    request_tokens: int
    response_tokens: int
    cached_tokens: int
    first_event_at: datetime | None
    last_event_at: datetime | None


class Manifest(Struct, frozen=True):
    """Describes an archive file. `sha256` is of the file's bytes, `digest` of the rows' content, in any order."""

    format: int
    month: str
    file: str
    bytes: int
    sha256: str
    sums: Sums
    digest: str
    schema: dict[str, str]
    written_at: datetime


def table_of(month: Period) -> str:
    """Return the name of a month's partition."""
    return f"usage_logs_{month.start:%Y_%m}"


def month_of(table: str) -> Period:
    """Return the month that a partition's name tells. Raises `ValueError`."""
    return Period.month_of(datetime.strptime(table, "usage_logs_%Y_%m").replace(tzinfo=UTC))


def spelled(month: Period) -> str:
    """Return a month as a person writes it."""
    return f"{month.start:%Y-%m}"


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(content: bytes, *, where: str) -> Manifest:
    """Read a manifest. Raises `PartitionError` that says what is wrong with it."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PartitionError(f"{where} is not the manifest of an archive ({error})") from None
    if manifest.schema != FORMATS.get(manifest.format):
        raise PartitionError(
            f"{where} is of format {manifest.format}; this version of Tallystick reads formats up to {FORMAT}"
        )
    return manifest
