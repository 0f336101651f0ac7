"""What a batch announces (pure): `usage.recorded` messages for what it stored, dead letters for what it refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from msgspec import Raw

from services.ingest.acceptance import Rejected
from services.ingest.deltas import EncodedSums, Sums, corrected
from services.ingest.rows import UsageRow
from shared.contracts import USAGE_DEAD_LETTER, USAGE_RECORDED, Origin, UsageDelta, UsageRecorded, encode
from shared.outbox import Message

if TYPE_CHECKING:
    from shared.slices import Record

T = TypeVar("T")


class Corrections(Protocol):
    """The rows that a batch put in the place of others, and those that it took back."""

    @property
    def replaced(self) -> Sequence[UsageRow]: ...

    @property
    def reversed(self) -> Sequence[UsageRow]: ...


MESSAGE_BYTES = 700_000
"""Aim for one message; brokers refuse more than a megabyte by default."""
ENTRY_BYTES = 450
"""A generous guess at one encoded delta; a message that turns out too large is split further."""


def announce_recorded(
    batch_id: UUID,
    origin: Origin,
    own: Sums | EncodedSums,
    recorded_at: datetime,
    *,
    corrections: Corrections | None = None,
) -> list[Message]:
    """Return the `usage.recorded` messages of a batch: none for no rows, several where one would be too large.

    `own` is what its own rows add up to, without those of its corrections.
    """
    replaced, reversed_ = (corrections.replaced, corrections.reversed) if corrections else ((), ())
    if isinstance(own, EncodedSums) and not replaced and not reversed_ and own.events:
        announced = _recorded(batch_id, origin, recorded_at, own)
        if len(announced.value or b"") <= MESSAGE_BYTES:
            return [announced]
    deltas, providers = corrected(own.decoded(), replaced, reversed_)
    if not deltas:
        return []
    parts = 1 + (len(deltas) + len(providers)) * ENTRY_BYTES // MESSAGE_BYTES
    if parts > 1:
        deltas.sort(key=lambda delta: delta.subscription_id.bytes)
    while True:
        shares = _shares_by_subscription(deltas, parts)
        values = [
            encode(
                UsageRecorded(
                    batch_id=batch_id,
                    part=part,
                    parts=parts,
                    origin=origin,
                    recorded_at=recorded_at,
                    event_count=sum(delta.rows for delta in shares[part]),
                    deltas=shares[part],
                    providers=_share(providers, part, parts),
                    by_app=True,
                )
            )
            for part in range(parts)
        ]
        if max(map(len, values)) <= MESSAGE_BYTES or parts >= len(deltas) + len(providers):
            return [Message(topic=USAGE_RECORDED, partition=origin.partition, value=value) for value in values]
        parts *= 2


def _recorded(batch_id: UUID, origin: Origin, recorded_at: datetime, sums: EncodedSums) -> Message:
    """Return all of a batch as one message."""
    deltas: Any = Raw(b"[%b]" % sums.deltas_json)
    providers: Any = Raw(b"[%b]" % sums.providers_json)
    value = encode(UsageRecorded(batch_id, 0, 1, origin, recorded_at, sums.events, deltas, providers, by_app=True))
    return Message(topic=USAGE_RECORDED, partition=origin.partition, value=value)


def _shares_by_subscription(deltas: list[UsageDelta], parts: int) -> list[list[UsageDelta]]:
    """Cut deltas, sorted by subscription if `parts` > 1, into `parts` shares of about one size.

    What can be kept together is: a subscription whose deltas lie in two messages may be rated in two runs, and then its
    lines cannot be told apart by batch. Only one that alone fills more than a share is cut.
    """
    cuts = [0]
    for part in range(1, parts):
        even = cut = len(deltas) * part // parts
        while 0 < cut < len(deltas) and deltas[cut].subscription_id == deltas[cut - 1].subscription_id:
            cut -= 1
        cuts.append(cut if cut > cuts[-1] else max(even, cuts[-1]))
    return [deltas[start:end] for start, end in pairwise([*cuts, len(deltas)])]


def _share(whole: list[T], part: int, parts: int) -> list[T]:
    """Return one of `parts` shares of a list: neighbours stay together, all sizes differ by one at most."""
    return whole[len(whole) * part // parts : len(whole) * (part + 1) // parts]


def announce_refused(origin: Origin, ids: Sequence[UUID], refused: Sequence[tuple[Record, Rejected]]) -> list[Message]:
    """Return the dead letters of a batch: original key and bytes; id in quarantine, reason and origin in headers.

    They are published at least once: a reader drops doubles by `tallystick_id`.
    """
    return [
        Message(
            topic=USAGE_DEAD_LETTER,
            key=record.key,
            value=record.value,
            headers={
                "content-type": "application/octet-stream",  # whatever it was, it was no usage event
                "tallystick_id": str(id_),
                "tallystick_reason": rejected.reason,
                "tallystick_detail": rejected.detail,
                "tallystick_topic": origin.topic,
                "tallystick_partition": str(origin.partition),
                "tallystick_epoch": str(origin.epoch),
                "tallystick_offset": str(record.offset),
            },
        )
        for id_, (record, rejected) in zip(ids, refused, strict=True)
    ]
