"""The models that gateways serve, and power levels."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from services.api.admin.fields import Id
from services.api.admin.listing import SQL, Json, fetch_page
from services.api.auth.asking import Administrator
from services.api.fields import Amount, Answer, Body, Instant
from services.api.paging import Listing, Page
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from shared.postgres import Connection

router = APIRouter(prefix="/api/v1/admin", tags=["admin: models and prices"])

NULLABLE: Final = ("description", "max_latency_ms", "min_quality_score")
"""What of a power level may be left open."""
Level = Literal["eco", "balanced", "precision"]
Int4 = Annotated[int, Field(gt=0, lt=2**31)]


class ModelWish(Body):
    """What is to be known of a model. List prices are for catalogues: nothing is billed by them."""

    name: Id
    provider: Id
    description: str | None = Field(None, max_length=2_000)
    capabilities: list[Id] = Field([], max_length=100)
    context_length: Int4 | None = None
    input_price_per_1k: Amount | None = Field(None, ge=0)
    output_price_per_1k: Amount | None = Field(None, ge=0)
    metadata: dict[str, Any] = Field({}, max_length=100)
    is_active: bool = Field(True, description="Whether it can be subscribed to.")


class Model(Answer):
    """A model."""

    id: str
    name: str
    provider: str
    description: str | None
    capabilities: list[str]
    context_length: int | None
    input_price_per_1k: Amount | None
    output_price_per_1k: Amount | None
    metadata: Json
    is_active: bool
    created_at: Instant
    updated_at: Instant


class PowerLevelWish(Body):
    """What is to change of a power level; what is left out stays as it is."""

    name: Id | None = None
    description: str | None = Field(None, max_length=2_000)
    preferred_providers: list[Id] | None = Field(None, max_length=100, description="Best first.")
    fallback_strategy: Id | None = None
    cost_multiplier: Amount | None = Field(
        None, ge=0, description="Factor on the price of usage at this level, from now on."
    )
    max_latency_ms: Int4 | None = None
    min_quality_score: Amount | None = Field(None, ge=0, le=1)
    is_active: bool | None = None


class PowerLevel(Answer):
    """How a power level routes, and by what its price is multiplied."""

    power_level: str
    name: str
    description: str | None
    preferred_providers: Json
    fallback_strategy: str
    cost_multiplier: Amount
    max_latency_ms: int | None
    min_quality_score: Amount | None
    is_active: bool


@router.get("/models")
async def list_all_models(
    request: Request,
    principal: Administrator,
    paging: Page,
    *,
    provider: str | None = None,
    active: bool | None = None,
    search: Annotated[str | None, Query(max_length=200, description="A part of the id or the name.")] = None,
) -> Listing[Model]:
    """List models by id, those that are withdrawn as well."""
    async with state_of(request).database.reading(principal) as connection:
        filters = {"provider": provider, "active": active, "search": search}
        return await fetch_page(connection, "models", filters, paging, Model, key=("id",))


@router.get("/models/{model_id:path}")
async def show_model(request: Request, principal: Administrator, model_id: str) -> Model:
    """Show a model. Its id may have slashes."""
    async with state_of(request).database.reading(principal) as connection:
        return await _model(connection, model_id)


@router.put("/models/{model_id:path}", responses={201: {"model": Model, "description": "It is new."}})
async def set_model(
    request: Request, principal: Administrator, model_id: str, body: ModelWish, response: Response
) -> Model:
    """Make a model (201), or put this in the place of what was known of it (200)."""
    async with state_of(request).database.operating(principal) as connection:
        is_new = await connection.fetchval(
            SQL["put_model"], model_id, body.name, body.provider, body.description, body.capabilities, body.context_length,
            body.input_price_per_1k, body.output_price_per_1k, json.dumps(body.metadata), body.is_active,
        )  # fmt: skip
        response.status_code = 201 if is_new else 200
        return await _model(connection, model_id)


@router.delete("/models/{model_id:path}")
async def withdraw_model(request: Request, principal: Administrator, model_id: str) -> Model:
    """Let nobody subscribe to a model any more. It is kept: usage and prices name it."""
    async with state_of(request).database.operating(principal) as connection:
        await connection.fetchval(SQL["withdraw_model"], model_id)
        return await _model(connection, model_id)


@router.get("/power-levels")
async def list_all_power_levels(request: Request, principal: Administrator) -> list[PowerLevel]:
    """List the power levels, the cheapest first."""
    async with state_of(request).database.reading(principal) as connection:
        return [PowerLevel.model_validate(dict(row)) for row in await connection.fetch(SQL["power_levels"], None)]


@router.patch("/power-levels/{level}")
async def set_power_level(request: Request, principal: Administrator, level: Level, body: PowerLevelWish) -> PowerLevel:
    """Change how a power level routes, or by what its price is multiplied: usage that was rated keeps what it was rated by."""
    async with state_of(request).database.operating(principal) as connection:
        now = await _level(connection, level)
        given = body.model_dump(exclude_unset=True)
        wanted = now.model_dump() | {
            name: value for name, value in given.items() if value is not None or name in NULLABLE
        }
        await connection.execute(
            SQL["set_power_level"], level, wanted["name"], wanted["description"], json.dumps(wanted["preferred_providers"]),
            wanted["fallback_strategy"], wanted["cost_multiplier"], wanted["max_latency_ms"], wanted["min_quality_score"],
            wanted["is_active"],
        )  # fmt: skip
        return await _level(connection, level)


async def _model(connection: Connection, model_id: str) -> Model:
    row = await connection.fetchrow(SQL["model"], model_id)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no model {model_id}")
    return Model.model_validate(dict(row))


async def _level(connection: Connection, level: str) -> PowerLevel:
    row = await connection.fetchrow(SQL["power_levels"], level)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no power level {level}: 'tallystick seed' makes them")
    return PowerLevel.model_validate(dict(row))
