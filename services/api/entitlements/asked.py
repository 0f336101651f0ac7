"""Which subscription and key a request is about, and whether who asks may ask about it."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from services.api.auth.principal import Principal
from services.api.entitlements.decision import Key
from services.api.entitlements.entitling import Entitlements
from services.api.fields import Body, Name
from services.api.problems import INVALID_REQUEST, NOT_FOUND, Problem


class Named(Body):
    """A subscription, or one of its API keys, or both; neither: the subscription of the key that asks."""

    subscription: UUID | None = Field(None, description="Id of the subscription.")
    api_key_id: UUID | None = Field(None, description="Id of an API key of the subscription.")
    api_key_hash: Name | None = Field(
        None, description="Hash of an API key, as `api_keys.key_hash` has it, for gateways that know nothing else."
    )


async def find(entitlements: Entitlements, principal: Principal, named: Named) -> tuple[UUID, Key | None]:
    """Return the subscription that is meant, and the key. Raises `Problem` (404, 422) and `ServiceUnavailable`."""
    name = named.api_key_id or named.api_key_hash
    key = None if name is None else await entitlements.key(name)
    if name is not None and (key is None or not await owns(entitlements, principal, key.subscription_id)):
        raise Problem(NOT_FOUND, "there is no such API key")
    subscription = named.subscription or (key.subscription_id if key else principal.subscription_id)
    if subscription is None:
        raise Problem(INVALID_REQUEST, "name a subscription or an API key: which one is asked for?")
    if not await owns(entitlements, principal, subscription):
        raise unknown(subscription)
    if key is not None and key.subscription_id != subscription:
        raise Problem(INVALID_REQUEST, "the API key belongs to another subscription: name one of the two")
    return subscription, key


async def owns(entitlements: Entitlements, principal: Principal, subscription: UUID) -> bool:
    """Tell whether who asks may ask about a subscription: a key about its own, a user about all of theirs, gateways about any."""
    if principal.reports_for_all or principal.subscription_id == subscription:
        return True
    standing = None if principal.subscription_id else await entitlements.standing(subscription)
    return standing is not None and standing.user_id == principal.user_id


def unknown(subscription: UUID) -> Problem:
    """Return the refusal for a subscription that is not there, or not the asker's."""
    return Problem(NOT_FOUND, f"there is no subscription {subscription}")
