"""Routes about API keys: made, listed, replaced, revoked. The key itself is in the answer that makes it, and nowhere else."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.accounts.api_keys.desk import (
    MOST_OVERLAP,
    REQUESTS_PER_DAY,
    REQUESTS_PER_MINUTE,
    ApiKey,
    UnknownKey,
    UnknownSubscription,
    Wish,
    create_key,
    list_keys,
    revoke_key,
    rotate_key,
)
from services.api.auth.asking import Asking
from services.api.auth.principal import Principal
from services.api.fields import Answer, Body, Instant, Word
from services.api.paging import Listing, Page, page
from services.api.problems import FORBIDDEN, INVALID_REQUEST, Problem
from services.api.state import state_of

router = APIRouter(prefix="/api/v1/api-keys", tags=["api keys"])

DAY_SECONDS = 86_400
_LIMIT = Field(ge=1, le=2_000_000_000)


class NewKey(Body):
    """The key that is asked for."""

    subscription_id: UUID | None = Field(
        None, description="Whose usage it reports; without it, that of the credential's own subscription."
    )
    name: Word | None = Field(None, description="What it is for.")
    expires_at: Instant | None = Field(None, description="When it ends; null: never.")
    requests_per_minute: Annotated[int, _LIMIT] | None = Field(
        REQUESTS_PER_MINUTE, description="Null: any number. Only administrators allow more than the default."
    )
    requests_per_day: Annotated[int, _LIMIT] | None = Field(
        REQUESTS_PER_DAY, description="Per UTC day. Null: any number. Only administrators allow more than the default."
    )


class Rotation(Body):
    """How a key is replaced."""

    overlap_seconds: int = Field(
        DAY_SECONDS, ge=0, le=int(MOST_OVERLAP.total_seconds()), description="How long the old key stays valid, too."
    )


class Key(Answer):
    """An API key, but for the key itself."""

    id: UUID
    subscription_id: UUID
    user_id: UUID
    name: str | None
    key_prefix: str = Field(description="What the key begins with.")
    requests_per_minute: int | None
    requests_per_day: int | None
    expires_at: Instant | None
    last_used_at: Instant | None
    created_at: Instant
    revoked_at: Instant | None
    replaces: UUID | None = Field(description="The key in whose place it was made.")


class MadeKey(Key):
    """A key that was made just now."""

    key: str = Field(description="The key itself. It is shown this once.")


@router.get("")
async def list_api_keys(  # noqa: PLR0917 (called by name)
    request: Request,
    principal: Asking,
    asked: Page,
    user_id: Annotated[UUID | None, Query(description="Administrators: of this user; without it, of all.")] = None,
    subscription_id: UUID | None = None,
    ended: Annotated[bool, Query(description="Those that are not valid any more, too.")] = False,
) -> Listing[Key]:
    """List API keys, the latest first."""
    owner = _owner(principal)
    if user_id is not None and owner not in (None, user_id):
        raise Problem(FORBIDDEN, "user_id: only administrators see keys of others")
    query = {"list": "api-keys", "user": user_id, "subscription": subscription_id, "ended": ended}
    after = asked.after(query)
    state = state_of(request)
    async with state.database.reading(principal) as connection:
        rows = await list_keys(
            connection,
            now=state.clock.now(),
            user_id=owner or user_id,
            subscription_id=_subscription(principal, subscription_id),
            ended=ended,
            limit=asked.limit + 1,
            offset=asked.offset,
            before=(after[0], after[1]) if after else None,
        )
    shown, cursor = page(rows, asked, query, lambda key: (key.created_at, key.id))
    return Listing(items=[_shown(key) for key in shown], next_cursor=cursor)


@router.post("", status_code=201)
async def create_api_key(request: Request, principal: Asking, body: NewKey) -> MadeKey:
    """Make an API key of a subscription. The answer shows it, this once."""
    return await make_api_key(request, principal, body)


async def make_api_key(request: Request, principal: Principal, body: NewKey, *, id_: UUID | None = None) -> MadeKey:
    """Make an API key, once for each `id_` that is given: a second time it is there already."""
    subscription_id = _subscription(principal, body.subscription_id)
    if subscription_id is None:
        raise Problem(INVALID_REQUEST, "subscription_id: say of which subscription")
    if principal.subscription_id and subscription_id != principal.subscription_id and not principal.may("admin"):
        raise UnknownSubscription(f"there is no subscription {subscription_id}")
    state, now = state_of(request), state_of(request).clock.now()
    if body.expires_at and body.expires_at <= now:
        raise Problem(INVALID_REQUEST, "expires_at: it is past")
    for name, wanted, default in (
        ("requests_per_minute", body.requests_per_minute, REQUESTS_PER_MINUTE),
        ("requests_per_day", body.requests_per_day, REQUESTS_PER_DAY),
    ):
        if (wanted is None or wanted > default) and not principal.may("admin"):
            raise Problem(FORBIDDEN, f"{name}: more than {default:,} is for administrators to allow")
    wish = Wish(subscription_id, body.name, body.expires_at, body.requests_per_minute, body.requests_per_day, id_)
    async with state.database.writing(principal) as connection:
        return _made(await create_key(connection, wish, pepper=_pepper(request), now=now, owner=_owner(principal)))


@router.post("/{key_id}/rotate", status_code=201)
async def rotate_api_key(request: Request, principal: Asking, key_id: UUID, body: Rotation | None = None) -> MadeKey:
    """Make a key in the place of another, which stays valid for a while."""
    state = state_of(request)
    overlap = timedelta(seconds=(body or Rotation()).overlap_seconds)
    async with state.database.writing(principal) as connection:
        made = await rotate_key(
            connection,
            key_id,
            overlap=overlap,
            pepper=_pepper(request),
            now=state.clock.now(),
            owner=_owner(principal),
        )
        _check_reach(principal, made[0], key_id)
        return _made(made)


@router.delete("/{key_id}", status_code=204)
async def revoke_api_key(request: Request, principal: Asking, key_id: UUID) -> None:
    """Let a key be valid no more. One that was revoked already stays so."""
    state = state_of(request)
    async with state.database.writing(principal) as connection:
        key = await revoke_key(connection, key_id, now=state.clock.now(), owner=_owner(principal))
        _check_reach(principal, key, key_id)


def _owner(principal: Principal) -> UUID | None:
    """Return whose keys somebody may touch; None for everybody's."""
    return None if principal.may("admin") else principal.user_id


def _subscription(principal: Principal, named: UUID | None) -> UUID | None:
    """Return which subscription's keys are meant: with an API key, its own unless another is named."""
    return named or (None if principal.may("admin") else principal.subscription_id)


def _check_reach(principal: Principal, key: ApiKey, named: UUID) -> None:
    """Refuse what an API key would do to keys of its owner's other subscriptions: what was done is rolled back."""
    if principal.subscription_id not in (None, key.subscription_id) and not principal.may("admin"):
        raise UnknownKey(f"there is no API key {named}")


def _pepper(request: Request) -> str:
    return state_of(request).settings.api_key_pepper.get_secret_value()


def _made(made: tuple[ApiKey, str]) -> MadeKey:
    key, itself = made
    return MadeKey(key=itself, **_fields(key))


def _shown(key: ApiKey) -> Key:
    return Key(**_fields(key))


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "subscription_id": key.subscription_id,
        "user_id": key.user_id,
        "name": key.name,
        "key_prefix": key.key_prefix,
        "requests_per_minute": key.quota_requests_per_minute,
        "requests_per_day": key.quota_requests_per_day,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "replaces": key.replaces,
    }
