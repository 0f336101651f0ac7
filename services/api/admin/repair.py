"""What ingest refused, and what it holds: seen, replayed, given up."""

from __future__ import annotations

import base64
from typing import Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field, model_validator

from services.api.admin.fields import Why
from services.api.admin.listing import fetch_page
from services.api.auth.asking import Administrator
from services.api.database import INGEST, OPERATOR
from services.api.fields import Answer, Body, Instant
from services.api.paging import Listing, Page
from services.api.state import State, state_of
from services.ingest import holding, quarantine

router = APIRouter(prefix="/api/v1/admin", tags=["admin: repair"])

MOST_WAITED_FOR: Final = 100
"""Who is waited for, at most, in one answer."""


class Place(Answer):
    """Where a record came from."""

    cluster: str
    topic: str
    partition: int
    epoch: int
    record_offset: int
    batch_id: UUID


class Refused(Place):
    """A record in quarantine: why, and what became of it. `resolution` null: it is open."""

    id: UUID
    reason: str
    detail: str
    published_at: Instant | None
    quarantined_at: Instant
    tried_at: Instant | None
    resolution: str | None
    resolved_at: Instant | None
    resolved_by: str | None
    resolved_why: str | None
    resolved_batch_id: UUID | None


class Content(Answer):
    """The bytes of a record, in base64: a gateway may have put anything into them."""

    key_base64: str | None
    value_base64: str | None
    headers: list[tuple[str, str | None]] = Field(description="Names, with their values in base64.")


class WholeRefused(Refused):
    """A record in quarantine with its bytes, and the event that is stored under its identity, if there is one."""

    content: Content
    stored: dict[str, Any] | None


class OpenReason(Answer):
    """How many records of a reason are open, and since when the oldest is."""

    reason: str
    records: int
    since: Instant


class Choice(Body):
    """Which open records are meant: those of a reason, single ones, or both."""

    reason: str | None = Field(None, max_length=100)
    ids: list[UUID] | None = Field(None, min_length=1, max_length=10_000)
    why: Why

    @model_validator(mode="after")
    def _says_which(self) -> Choice:
        if self.reason is None and self.ids is None:
            raise ValueError("say which records: by reason or ids")
        return self

    def chosen(self) -> quarantine.Choice:
        """Return it as what the capability takes."""
        return quarantine.Choice(self.reason, None if self.ids is None else tuple(dict.fromkeys(self.ids)))


class ReplayWish(Choice):
    """Records that are to go through ingest once more."""

    accept_late: bool = Field(False, description="Also take in what came too late, up to ten years old.")


class Replayed(Answer):
    """What a replay came to. Running ingest workers announce it, so that summaries and bills follow, within a minute."""

    stored: int
    stored_before: int
    held: int
    refused_again: dict[str, int] = Field(description="By the reason that holds now; these stay open.")
    examples: dict[str, str]


class Discarded(Answer):
    """How many records were given up."""

    discarded: int


class Held(Place):
    """An event that waits for its subscription or key, or a correction that waits for its original."""

    id: UUID
    reason: str
    subscription_id: UUID | None
    api_key_id: UUID | None
    original_id: UUID | None
    occurred_at: Instant
    held_at: Instant
    attributed_at: Instant | None
    attributed_batch_id: UUID | None
    expired_at: Instant | None
    expired_by: str | None
    expired_why: str | None


class WholeHeld(Held):
    """A held event with its bytes."""

    content: Content
    is_known: bool = Field(
        description="Whether what it waits for exists by now: running ingest workers store it within a second then."
    )


class WaitedFor(Answer):
    """A subscription, key or original that is not known, and how many events wait for it since when."""

    reason: str
    subscription_id: UUID | None
    api_key_id: UUID | None
    original_id: UUID | None
    events: int
    since: Instant


class Expiry(Body):
    """Held events that are to be given up."""

    ids: list[UUID] = Field(min_length=1, max_length=10_000)
    why: Why


class Expired(Answer):
    """How many events were given up; the others had been attributed or given up before."""

    expired: int


@router.get("/quarantine")
async def list_quarantined(
    request: Request,
    principal: Administrator,
    paging: Page,
    *,
    reason: str | None = None,
    resolution: Literal["open", "replayed", "discarded"] | None = "open",
) -> Listing[Refused]:
    """List records that ingest refused, the newest first: without a word those that are open."""
    async with state_of(request).database.reading(principal) as connection:
        filters = {"reason": reason, "resolution": resolution}
        return await fetch_page(connection, "quarantined", filters, paging, Refused, key=("quarantined_at", "id"))


@router.get("/quarantine/reasons")
async def count_quarantined(request: Request, principal: Administrator) -> list[OpenReason]:
    """Count the open records by reason, most frequent first."""
    async with state_of(request).database.operating(principal) as connection:
        found = await quarantine.count_open(connection)
    return [OpenReason.model_validate(one, from_attributes=True) for one in found]


@router.get("/quarantine/{record_id}")
async def show_quarantined(request: Request, principal: Administrator, record_id: UUID) -> WholeRefused:
    """Show a record with its bytes, and what is stored under its identity."""
    async with state_of(request).database.operating(principal) as connection:
        found = await quarantine.show(connection, record_id)
        stored = await quarantine.stored_version(connection, found)
    facts = Refused.model_validate(found, from_attributes=True)
    return WholeRefused(
        **dict(facts), content=_content(found), stored=stored and {k: str(v) for k, v in stored.items()}
    )


@router.post("/quarantine/replay")
async def replay_quarantined(request: Request, principal: Administrator, body: ReplayWish) -> Replayed:
    """Send open records through ingest once more. Each counts once, however often it is replayed."""
    state, choice = state_of(request), body.chosen()
    async with state.database.operating(principal) as connection:
        await quarantine.check_choice(connection, choice)
    done = await _replay(state, choice, principal.name, body)
    return Replayed(
        stored=done.inserted,
        stored_before=done.duplicates,
        held=done.held,
        refused_again=dict(done.refused_again),
        examples=dict(done.examples),
    )


@router.post("/quarantine/discard")
async def discard_quarantined(request: Request, principal: Administrator, body: Choice) -> Discarded:
    """Give open records up: they are kept with their bytes, but not open any more."""
    choice = body.chosen()
    async with state_of(request).database.operating(principal, body.why) as connection:
        await quarantine.check_choice(connection, choice)
        given_up = await quarantine.discard(connection, choice, actor=principal.name, why=body.why)
    return Discarded(discarded=given_up)


@router.get("/held")
async def list_held(
    request: Request,
    principal: Administrator,
    paging: Page,
    *,
    state: Literal["waiting", "attributed", "expired"] | None = "waiting",
    reason: str | None = None,
) -> Listing[Held]:
    """List held events, the newest first: without a word those that wait."""
    async with state_of(request).database.reading(principal) as connection:
        filters = {"state": state, "reason": reason}
        return await fetch_page(connection, "held", filters, paging, Held, key=("held_at", "id"))


@router.get("/held/waiting")
async def count_held(request: Request, principal: Administrator) -> list[WaitedFor]:
    """Say who is waited for, the longest first: at most 100."""
    async with state_of(request).database.operating(principal) as connection:
        found = await holding.count_waiting(connection, MOST_WAITED_FOR)
    return [WaitedFor.model_validate(one, from_attributes=True) for one in found]


@router.get("/held/{event_id}")
async def show_held(request: Request, principal: Administrator, event_id: UUID) -> WholeHeld:
    """Show a held event with its bytes, and whether what it waits for is there by now."""
    database = state_of(request).database
    async with database.operating(principal) as connection:
        [found] = await holding.find(connection, [event_id])
    async with database.writing(principal, role=INGEST) as connection:
        is_known = await holding.owner_exists(connection, event_id)
    facts = Held.model_validate(found, from_attributes=True)
    return WholeHeld(**dict(facts), content=_content(found), is_known=is_known)


@router.post("/held/expire")
async def expire_held(request: Request, principal: Administrator, body: Expiry) -> Expired:
    """Give up waiting: the events are kept, but never stored as usage, even if their subscription appears."""
    async with state_of(request).database.operating(principal, body.why) as connection:
        await holding.find(connection, body.ids)
        expired = await holding.expire(connection, body.ids, actor=principal.name, why=body.why)
    return Expired(expired=expired)


async def _replay(state: State, choice: quarantine.Choice, actor: str, wish: ReplayWish) -> quarantine.Replayed:
    settings, pool = state.capabilities.ingest, await state.capabilities.pool(OPERATOR)
    ingest = quarantine.without_consumer(pool, cluster=settings.kafka_cluster, limits=settings.limits())
    done, _left_to_the_workers = await quarantine.Replay(pool, ingest, actor, wish.why, wish.accept_late).run(choice)
    return done


def _content(record: quarantine.Quarantined | holding.Held) -> Content:
    return Content(
        key_base64=_base64(record.record_key),
        value_base64=_base64(record.record_value),
        headers=[(name, _base64(value)) for name, value in record.record_headers],
    )


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
