"""The time zone that a user's days and months are cut in, where a question names none."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from pydantic import Field

from services.api.auth.asking import Asking
from services.api.fields import Answer, Body, Word
from services.api.problems import invalid
from services.api.state import state_of
from services.api.usage.buckets import zone_named
from services.api.usage.reading import UTC_NAME, usage_of
from shared.sql import Queries

router = APIRouter(prefix="/api/v1", tags=["usage"])

_SQL: Final = Queries.load("services.api.usage", "own.sql")


class NewTimeZone(Body):
    """The zone to use from now on."""

    time_zone: Word | None = Field(description="An IANA name, such as Europe/Berlin; null: UTC.")


class TimeZone(Answer):
    """The zone that is used where a question names none."""

    time_zone: str


@router.get("/me/time-zone")
async def read_time_zone(request: Request, principal: Asking) -> TimeZone:
    """The time zone of who asks."""
    async with usage_of(state_of(request).database, principal, principal.user_id) as usage:
        return TimeZone(time_zone=(await usage.zone(None, principal.user_id)).key)


@router.put("/me/time-zone")
async def set_time_zone(request: Request, principal: Asking, body: NewTimeZone) -> TimeZone:
    """Set the time zone of who asks: days and months of usage are cut in it. Nothing that is billed depends on it."""
    if body.time_zone is not None and zone_named(body.time_zone) is None:
        raise invalid("body.time_zone", f"'{body.time_zone}' is no time zone: give an IANA name, such as Europe/Berlin")
    async with state_of(request).database.writing(principal) as connection:
        await connection.execute(_SQL["set_time_zone"], principal.user_id, body.time_zone)
    return TimeZone(time_zone=body.time_zone or UTC_NAME)
