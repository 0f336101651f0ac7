"""Identifiers: UUIDv7 for what we make, UUIDv5 for what a producer names (pure)."""

from __future__ import annotations

from uuid import UUID

import uuid_utils
import uuid_utils.compat

EVENT_NAMESPACE = uuid_utils.UUID("b1d3bb55-6f6b-5d3c-9f0e-6f3b1f7e5a10")


def uuid7() -> UUID:
    """Return a new time-ordered id (RFC 9562 version 7)."""
    return uuid_utils.compat.uuid7()


def event_id(source: str, request_id: str) -> UUID:
    """Return the stored id of a usage event: UUIDv5 of its identity `(source, id)`.

    The two parts are separated by a line feed preceded by the length of `source`, so that no two identities share a name.
    """
    return UUID(int=uuid_utils.uuid5(EVENT_NAMESPACE, f"{len(source)}\n{source}\n{request_id}").int)
