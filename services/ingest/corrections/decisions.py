"""What becomes of a correction (pure), from what is stored under three ids: its own, its original's, and that of the original's reversal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from services.ingest.acceptance import Reason, Rejected
from services.ingest.rows import COLUMNS, UsageRow, differing_columns, usage_row
from shared.corrections import AmendEvent, VoidEvent
from shared.ids import event_key, reversal_key, uuid_of_bytes

if TYPE_CHECKING:
    from services.ingest.attribution import Owner
    from shared.slices import Record

Stored: TypeAlias = Mapping[UUID, Mapping[str, Any]]
"""Rows of `stored_versions` by the id that was asked for."""

CORRECTION_COLUMNS = (*COLUMNS, "quantity", "corrects", "corrected_at")


class Becomes(Enum):
    """What is to be done with a correction that is not refused."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Correcting:
    """A correction on its way: the record it came in, its event, and for an amendment who used what it says. Ids are of rows."""

    record: Record
    event: VoidEvent | AmendEvent
    owner: Owner | None
    id: UUID
    original: UUID
    reversal: UUID

    @classmethod
    def of(cls, record: Record, event: VoidEvent | AmendEvent, owner: Owner | None = None) -> Correcting:
        """Return the correction that an event asks for; `owner` is of the replacement."""
        own, original = event_key(event.source, event.id), event_key(event.source, event.corrects)
        return cls(record, event, owner, *map(uuid_of_bytes, (own, original, reversal_key(original))))

    @property
    def asked(self) -> list[tuple[UUID, datetime]]:
        """The ids that it depends on, as `stored_versions` asks for them."""
        return [(id_, self.event.time) for id_ in (self.id, self.original, self.reversal)]


def decide(correcting: Correcting, stored: Stored, batch_id: UUID) -> Becomes | Rejected:
    """Return what becomes of a correction. Raises nothing: `stored` has no entry for what is not there."""
    event, own = correcting.event, stored.get(correcting.id)
    if own is not None:
        return Becomes.DUPLICATE if _is_the_same(correcting, own, batch_id) else _conflict(correcting)
    original = stored.get(correcting.original)
    if original is None:
        return Becomes.WAITING
    if original["id"] is None:
        return Rejected(
            Reason.TOO_OLD,
            f"the usage of {original['guarded_at']:%Y-%m} is archived: restore it ('tallystick partitions restore'), then replay the event",
        )
    if original["quantity"] != 1:
        return Rejected(
            Reason.NOT_VOIDABLE,
            f"{event.corrects} is itself a void: it cannot be taken back; send the usage again under a new id",
        )
    if isinstance(event, VoidEvent) and event.subject and event.subject.lower() != str(original["subscription_id"]):
        return Rejected(
            Reason.KEY_MISMATCH,
            f"subject {event.subject} is not whose usage {event.corrects} is; leave it out, or name that subscription",
        )
    if reversal := stored.get(correcting.reversal):
        by = reversal["request_id"] if reversal["id"] is not None else "an event whose month is archived"
        return Rejected(
            Reason.ALREADY_VOIDED,
            f"{event.corrects} was taken back already, by {by}. If that was an amendment, name its id to correct it further",
        )
    return Becomes.APPLIED


def original_row(original: Mapping[str, Any]) -> UsageRow:
    """Return the stored row of an original: what its reversal takes back."""
    return UsageRow(*(original[name] for name in COLUMNS))


def reversal_of(correcting: Correcting, original: UsageRow, batch_id: UUID) -> tuple[Any, ...]:
    """Return the row that takes `original` back, in the order of `CORRECTION_COLUMNS`: the same, with every count negated."""
    row = original._replace(
        id=correcting.reversal,
        batch_id=batch_id,
        request_tokens=-original.request_tokens,
        response_tokens=-original.response_tokens,
        cached_tokens=-original.cached_tokens,
        tokens_returned=None if original.tokens_returned is None else -original.tokens_returned,
        request_id=correcting.event.id,
    )
    return (*row, -1, correcting.original, correcting.event.time)


def replacement(correcting: Correcting, created_at: datetime, batch_id: UUID) -> UsageRow | None:
    """Return the row that an amendment puts in the place of its original, at the original's time; None for a void."""
    event, owner = correcting.event, correcting.owner
    if isinstance(event, VoidEvent) or owner is None:
        return None
    key = event_key(event.source, event.id)
    return usage_row(event, key, owner.subscription_id, owner.api_key_id, batch_id)._replace(created_at=created_at)


def _is_the_same(correcting: Correcting, own: Mapping[str, Any], batch_id: UUID) -> bool:
    """Tell whether what is stored under a correction's own id is what it asks for."""
    if own["id"] is None or own["corrects"] != correcting.original or own["corrected_at"] != correcting.event.time:
        return False
    again = replacement(correcting, own["created_at"], batch_id)
    if again is None:
        return bool(own["quantity"] == -1 and own["request_id"] == correcting.event.id)
    return bool(own["quantity"] == 1) and not differing_columns(again, own)


def _conflict(correcting: Correcting) -> Rejected:
    event = correcting.event
    return Rejected(
        Reason.CONFLICT,
        f"the identity (source {event.source}, id {event.id}) was stored already with other content: an event, or a correction of "
        "another time or original. It is not applied; send a new id for a new correction",
    )
