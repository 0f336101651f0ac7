"""Why a record is refused (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a record is quarantined. The label of a metric: few, stable names."""

    TOMBSTONE = "tombstone"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    MISSING_FIELD = "missing_field"
    INVALID_VALUE = "invalid_value"
    NUL_CHARACTER = "nul_character"
    UNKNOWN_VERSION = "unknown_version"
    UNKNOWN_TYPE = "unknown_type"
    NOBODY_NAMED = "nobody_named"
    METADATA_TOO_LARGE = "metadata_too_large"
    TOO_OLD = "too_old"
    TOO_FAR_AHEAD = "too_far_ahead"
    KEY_MISMATCH = "key_mismatch"
    CONFLICT = "conflict"
    ALREADY_VOIDED = "already_voided"
    NOT_VOIDABLE = "not_voidable"
    REFUSED_BY_DATABASE = "refused_by_database"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not a usage event of ours. `detail` says what is wrong and, where one can, how to mend it."""

    reason: Reason
    detail: str

    def __post_init__(self) -> None:
        """Keep out of `detail` what neither Postgres nor a header can hold: it may quote the record."""
        storable = self.detail.replace("\x00", "\\u0000").encode("utf-8", "backslashreplace").decode()
        object.__setattr__(self, "detail", storable)
