"""Routes about keys at providers. A key goes in and never comes out: neither in an answer nor in the log."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, SecretStr, StringConstraints

from services.accounts.provider_keys import desk
from services.accounts.provider_keys.keyring import Keyring, NoSecrets
from services.api.auth.asking import Asking
from services.api.auth.principal import Principal
from services.api.fields import Answer, Body, Instant, Word
from services.api.paging import Listing, Page, page
from services.api.problems import FORBIDDEN, Problem
from services.api.state import state_of

router = APIRouter(prefix="/api/v1/provider-keys", tags=["provider keys"])

Provider = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=4_000)]
Days = Annotated[
    int | None, Field(ge=1, le=3_650, description="After how many days you are reminded to replace it; null: never.")
]


class NewProviderKey(Body):
    """A key to be stored."""

    provider: Provider = Field(description="As usage events name it, such as openai.")
    api_key: Secret = Field(description="The key as the provider shows it. It is encrypted, and not returned.")
    key_name: Word = Field("default", description="What you call it.")
    is_default: bool = Field(False, description="Whether it is used from now on. The first key at a provider is.")
    remind_after_days: Days = desk.ROTATION_DAYS


class NewSecret(Body):
    """The key that takes the place of a stored one."""

    api_key: Secret
    remind_after_days: Days = desk.ROTATION_DAYS


class StoredProviderKey(Answer):
    """A key at a provider, but for the key itself."""

    id: UUID
    user_id: UUID
    provider: str
    key_name: str
    key_hint: str | None = Field(description="Its last characters.")
    is_default: bool
    is_active: bool
    last_used_at: Instant | None
    monthly_requests: int = Field(
        description="Of `usage_month`. Usage with own keys counts for the default key at its provider."
    )
    monthly_tokens: int
    usage_month: Instant
    total_requests: int
    rotated_at: Instant
    rotation_due_at: Instant | None
    created_at: Instant


@router.get("")
async def list_provider_keys(
    request: Request,
    principal: Asking,
    asked: Page,
    provider: Provider | None = None,
    user_id: Annotated[UUID | None, Query(description="Administrators: of this user; without it, their own.")] = None,
) -> Listing[StoredProviderKey]:
    """List keys at providers, by provider and name."""
    if user_id not in (None, principal.user_id) and not principal.may("admin"):
        raise Problem(FORBIDDEN, "user_id: only administrators see keys of others")
    owner = user_id or principal.user_id
    query = {"list": "provider-keys", "user": owner, "provider": provider}
    after = asked.after(query)
    async with state_of(request).database.reading(principal) as connection:
        rows = await desk.list_keys(
            connection,
            user_id=owner,
            provider=provider,
            limit=asked.limit + 1,
            offset=asked.offset,
            after=(after[0], after[1], after[2]) if after else None,
        )
    shown, cursor = page(rows, asked, query, lambda key: (key.provider, key.key_name, key.id))
    return Listing(items=[_shown(key) for key in shown], next_cursor=cursor)


@router.post("", status_code=201)
async def store_provider_key(request: Request, principal: Asking, body: NewProviderKey) -> StoredProviderKey:
    """Store a key of yours at a provider, encrypted."""
    state, keyring = state_of(request), _keyring(request)
    async with state.database.writing(principal) as connection:
        key = await desk.store_key(
            connection,
            keyring,
            user_id=principal.user_id,
            provider=body.provider,
            key_name=body.key_name,
            key=body.api_key.get_secret_value(),
            now=state.clock.now(),
            default=body.is_default,
            remind_after=_days(body.remind_after_days),
        )
    return _shown(key)


@router.post("/{key_id}/rotate")
async def rotate_provider_key(request: Request, principal: Asking, key_id: UUID, body: NewSecret) -> StoredProviderKey:
    """Put a new key in the place of a stored one, which keeps its name and its statistics."""
    state, keyring = state_of(request), _keyring(request)
    async with state.database.writing(principal) as connection:
        key = await desk.rotate_key(
            connection,
            keyring,
            key_id,
            key=body.api_key.get_secret_value(),
            now=state.clock.now(),
            owner=principal.user_id,
            remind_after=_days(body.remind_after_days),
        )
    return _shown(key)


@router.post("/{key_id}/default")
async def make_provider_key_default(request: Request, principal: Asking, key_id: UUID) -> StoredProviderKey:
    """Let a key be the one that is used at its provider."""
    async with state_of(request).database.writing(principal) as connection:
        return _shown(await desk.make_default(connection, key_id, owner=principal.user_id))


@router.delete("/{key_id}", status_code=204)
async def delete_provider_key(request: Request, principal: Asking, key_id: UUID) -> None:
    """Forget a key. Administrators may let the keys of others be forgotten; none of them can read one."""
    async with state_of(request).database.writing(principal) as connection:
        await desk.delete_key(connection, key_id, owner=_owner(principal))


def _owner(principal: Principal) -> UUID | None:
    return None if principal.may("admin") else principal.user_id


def _keyring(request: Request) -> Keyring:
    keyring = state_of(request).provider_keyring
    if keyring is None:
        raise NoSecrets
    return keyring


def _days(days: int | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _shown(key: desk.ProviderKey) -> StoredProviderKey:
    return StoredProviderKey.model_validate(key, from_attributes=True)
