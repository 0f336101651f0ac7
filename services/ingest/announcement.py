"""What a batch announces (pure): `usage.recorded` messages for what it stored, dead letters for what it refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from aiokafka import ConsumerRecord

from services.ingest.acceptance import Rejected
from services.ingest.deltas import aggregate
from services.ingest.rows import UsageRow
from shared.contracts import USAGE_DEAD_LETTER, USAGE_RECORDED, Origin, ProviderDelta, UsageDelta, UsageRecorded, encode
from shared.outbox import Message

MESSAGE_BYTES = 700_000
"""Aim for one message; brokers refuse more than a megabyte by default."""
DELTA_BYTES = 450
"""A generous guess at one encoded delta; a message that turns out too large is split further."""


def announce_recorded(batch_id: UUID, origin: Origin, rows: Sequence[UsageRow], recorded_at: datetime) -> list[Message]:
    """Return the `usage.recorded` messages of a batch: none for no rows, several where one would be too large."""
    if not rows:
        return []
    deltas, providers = aggregate(rows)
    size = max(1, MESSAGE_BYTES // DELTA_BYTES)
    chunks: list[list[UsageDelta]] = [deltas[i : i + size] for i in range(0, len(deltas), size)]
    encoded = _encode_chunks(batch_id, origin, recorded_at, chunks, providers)
    while any(len(value) > MESSAGE_BYTES and len(chunk) > 1 for value, chunk in zip(encoded, chunks, strict=True)):
        chunks = [half for chunk in chunks for half in (chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]) if half]
        encoded = _encode_chunks(batch_id, origin, recorded_at, chunks, providers)
    return [Message(topic=USAGE_RECORDED, partition=origin.partition, value=value) for value in encoded]


def _encode_chunks(
    batch_id: UUID,
    origin: Origin,
    recorded_at: datetime,
    chunks: Sequence[list[UsageDelta]],
    providers: list[ProviderDelta],
) -> list[bytes]:
    return [
        encode(
            UsageRecorded(
                batch_id=batch_id,
                part=part,
                parts=len(chunks),
                origin=origin,
                recorded_at=recorded_at,
                event_count=sum(delta.requests for delta in chunk),
                deltas=chunk,
                providers=providers if part == 0 else [],
            )
        )
        for part, chunk in enumerate(chunks)
    ]


def announce_refused(origin: Origin, refused: Sequence[tuple[ConsumerRecord[bytes, bytes], Rejected]]) -> list[Message]:
    """Return the dead letters of a batch: original key and bytes, reason and origin in headers."""
    return [
        Message(
            topic=USAGE_DEAD_LETTER,
            key=record.key,
            value=record.value,
            headers={
                "tallystick_reason": rejected.reason,
                "tallystick_detail": rejected.detail,
                "tallystick_topic": origin.topic,
                "tallystick_partition": str(origin.partition),
                "tallystick_epoch": str(origin.epoch),
                "tallystick_offset": str(record.offset),
            },
        )
        for record, rejected in refused
    ]
