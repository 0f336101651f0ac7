"""What is known about users beside their accounts: notes of administrators, what they did, their logins."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, model_validator

from services.api.admin.listing import SQL, Json, fetch_page
from services.api.auth.asking import Administrator
from services.api.fields import Answer, Body, Instant
from services.api.paging import Listing, Page
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from shared.ids import uuid7
from shared.postgres import Connection

router = APIRouter(prefix="/api/v1/admin", tags=["admin: users"])

Text = Annotated[str, Field(min_length=1, max_length=10_000)]


class Note(Answer):
    """What an administrator wrote about a user."""

    id: UUID
    user_id: UUID
    admin_id: UUID
    admin: str
    note: str
    is_flagged: bool
    created_at: Instant


class NoteWish(Body):
    """A note that is to be written."""

    note: Text
    is_flagged: bool = Field(False, description="Whether somebody has to look at it.")


class NoteChange(Body):
    """What is to change of a note."""

    note: Text | None = None
    is_flagged: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> NoteChange:
        if self.note is None and self.is_flagged is None:
            raise ValueError("give note, is_flagged, or both")
        return self


class Activity(Answer):
    """Something that a user did in the portal."""

    id: UUID
    user_id: UUID
    action: str
    data: Json
    created_at: Instant


class Session(Answer):
    """A login that can be refreshed, and when it was last."""

    id: UUID
    user_id: UUID
    email: str
    logged_in_at: Instant
    refreshed_at: Instant
    expires_at: Instant
    ip_address: str | None
    user_agent: str | None


class Ended(Answer):
    """How many logins were ended."""

    sessions: int


@router.get("/users/{user_id}/activity")
async def list_user_activity(
    request: Request, principal: Administrator, user_id: UUID, paging: Page, *, action: str | None = None
) -> Listing[Activity]:
    """List what a user did in the portal, the newest first."""
    async with state_of(request).database.reading(principal) as connection:
        return await fetch_page(connection, "activity", {"user": user_id, "action": action}, paging, Activity)


@router.get("/notes")
async def list_notes(
    request: Request,
    principal: Administrator,
    paging: Page,
    *,
    user: UUID | None = None,
    flagged: Annotated[
        bool | None, Query(description="Only those that somebody has to look at, or only the others.")
    ] = None,
) -> Listing[Note]:
    """List notes, the newest first."""
    async with state_of(request).database.reading(principal) as connection:
        return await fetch_page(connection, "notes", {"user": user, "flagged": flagged}, paging, Note)


@router.post("/users/{user_id}/notes", status_code=201)
async def write_note(request: Request, principal: Administrator, user_id: UUID, body: NoteWish) -> Note:
    """Write a note about a user."""
    async with state_of(request).database.operating(principal) as connection:
        facts = (uuid7(), user_id, principal.user_id, body.is_flagged, body.note)
        note_id = await connection.fetchval(SQL["add_note"], *facts)
        if note_id is None:
            raise Problem(NOT_FOUND, f"there is no user {user_id}, or not any more")
        return await _note(connection, note_id)


@router.patch("/notes/{note_id}")
async def change_note(request: Request, principal: Administrator, note_id: UUID, body: NoteChange) -> Note:
    """Change a note, or set or take away its flag."""
    async with state_of(request).database.operating(principal) as connection:
        await connection.execute(SQL["change_note"], note_id, body.note, body.is_flagged)
        return await _note(connection, note_id)


@router.delete("/notes/{note_id}", status_code=204)
async def delete_note(request: Request, principal: Administrator, note_id: UUID) -> None:
    """Delete a note."""
    async with state_of(request).database.operating(principal) as connection:
        if not await connection.fetchval(SQL["delete_note"], note_id):
            raise Problem(NOT_FOUND, f"there is no note {note_id}")


@router.get("/sessions")
async def list_sessions(
    request: Request, principal: Administrator, paging: Page, *, user: UUID | None = None
) -> Listing[Session]:
    """List logins that are valid, the newest first."""
    state = state_of(request)
    async with state.database.operating(principal) as connection:
        now, key = state.clock.now(), ("logged_in_at", "id")
        return await fetch_page(connection, "sessions", {"user": user}, paging, Session, key=key, beside=[now])


@router.delete("/sessions/{session_id}")
async def end_session(request: Request, principal: Administrator, session_id: UUID) -> Ended:
    """End a login: its tokens are not valid any more."""
    async with state_of(request).database.operating(principal) as connection:
        ended = await _end(connection, session_id, None)
    if not ended:
        raise Problem(NOT_FOUND, f"there is no session {session_id}")
    return Ended(sessions=ended)


@router.delete("/users/{user_id}/sessions")
async def end_sessions_of_user(request: Request, principal: Administrator, user_id: UUID) -> Ended:
    """End all logins of a user."""
    async with state_of(request).database.operating(principal) as connection:
        return Ended(sessions=await _end(connection, None, user_id))


async def _end(connection: Connection, session_id: UUID | None, user_id: UUID | None) -> int:
    status: str = await connection.execute(SQL["end_sessions"], session_id, user_id)
    return int(status.rsplit(" ", 1)[-1])


async def _note(connection: Connection, note_id: UUID) -> Note:
    row = await connection.fetchrow(SQL["note"], note_id)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no note {note_id}")
    return Note.model_validate(dict(row))
