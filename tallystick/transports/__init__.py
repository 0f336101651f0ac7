"""How records leave the spool: what a transport is, and the form of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tallystick.errors import ProducerError
from tallystick.events import Event


class Undelivered(ProducerError):
    """None of the records, or not all of them, have arrived for certain: send them again, in `retry_after` seconds if that is given."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Rejection(NamedTuple):
    """A record that will never be accepted, and why."""

    record: bytes
    reason: str
    detail: str


class Transport(Protocol):
    """Delivers records, in order."""

    def send(self, records: Sequence[bytes]) -> Sequence[Rejection]:
        """Return when all records are accepted, but for those that are rejected. Raises `Undelivered`. Sent again, a record counts once."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def to_record(event: Event) -> bytes:
    """Return what is spooled of an event: the key of its Kafka record, a line feed, its JSON."""
    return event.key.replace("\n", " ").encode() + b"\n" + event.body


def from_record(record: bytes) -> tuple[bytes, bytes]:
    """Return key and JSON of a spooled event."""
    key, _, body = record.partition(b"\n")
    return key, body
