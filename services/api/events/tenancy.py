"""Whose an event is when a tenant reports its own usage (pure): the credential says it, never the payload.

A gateway (role service) names the subscription itself, and its events pass as they are. The key of a tenant stands for one
subscription, so that subject and key are filled in, and the source is put under the subscription: else a tenant could report an id
of its gateway before the gateway does, or take the gateway's events back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from shared.corrections import VOID_TYPE

NOT_YOURS: Final = "not_yours"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.encode


class NotYours(Exception):
    """The event names a subscription or key that is not the credential's."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """The subscription and the key that a credential stands for."""

    subscription_id: UUID
    key_id: UUID

    def own_source(self, source: str) -> str:
        """Return the source under which events of this tenant are kept: one that no gateway has, a different one for each."""
        own = f"/subscriptions/{self.subscription_id}"
        if source.startswith((f"{own}/", f"{own}:")):
            return source
        return f"{own}{source}" if source.startswith("/") else f"{own}:{source}"


@dataclass(frozen=True, slots=True)
class Claim:
    """An event that a tenant sent. `key_hash` is the key that it names by its hash: whose that is, the database knows."""

    document: dict[str, Any]
    key_hash: str | None


def claim(value: bytes, tenant: Tenant) -> Claim | None:
    """Return what a tenant's record claims; None for what is no event at all. Raises `NotYours`."""
    try:
        document = _decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    if not _is(document.get("subject"), tenant.subscription_id):
        raise NotYours(
            f"this key reports for the subscription {tenant.subscription_id}: leave subject out, or name that one"
        )
    data = document.get("data")
    if not isinstance(data, dict):
        return Claim(document, None)
    if not _is(data.get("api_key_id"), tenant.key_id):
        raise NotYours("data.api_key_id is not the key that this was sent with: leave it out")
    key_hash = data.get("api_key_hash")
    return Claim(document, key_hash if isinstance(key_hash, str) and key_hash else None)


def signed(claimed: Claim, tenant: Tenant) -> bytes:
    """Return the record that is published in the tenant's name. A hash that names none of our keys is kept under `metadata`."""
    document = {**claimed.document, "subject": str(tenant.subscription_id)}
    source, data = document.get("source"), document.get("data")
    if isinstance(source, str) and source:
        document["source"] = tenant.own_source(source)
    if isinstance(data, dict) and document.get("type") != VOID_TYPE:
        data = {**data, "api_key_id": str(tenant.key_id)}
        if claimed.key_hash:
            del data["api_key_hash"]
            data["metadata"] = _with_hash(data.get("metadata"), claimed.key_hash)
        document["data"] = data
    return _encode(document)


def _with_hash(metadata: Any, key_hash: str) -> Any:
    if metadata is not None and not isinstance(metadata, dict):
        return metadata  # of a wrong type: ingest's rules say so
    return {"api_key_hash": key_hash, **(metadata or {})}


def _is(named: Any, own: UUID) -> bool:
    """Tell whether a name that an event may give is ours. Nothing is, and so is what is no name: ingest's rules say so."""
    if not isinstance(named, str) or not named:
        return True
    try:
        return UUID(named) == own
    except ValueError:
        return False
