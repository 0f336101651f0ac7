"""Routes of catalogues: models, prices, plans, power levels, and how providers do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.api.auth.asking import Asking
from services.api.fields import Answer, Exact, Instant, Word
from services.api.paging import CursorPage, Listing, Page, page
from services.api.state import state_of
from shared.sql import Queries

router = APIRouter(prefix="/api/v1", tags=["catalogue"])

_SQL: Final = Queries.load("services.api.catalogue")


class Model(Answer):
    """A model that gateways serve. Its list prices are for show: `/prices` says what is billed."""

    id: str
    name: str
    provider: str
    description: str | None
    capabilities: list[str]
    context_length: int | None
    input_price_per_1k: Exact | None
    output_price_per_1k: Exact | None
    is_active: bool


class Price(Answer):
    """What usage of a model, a tool or a feature costs; exactly one of the three is named."""

    id: UUID
    model_id: str | None
    tool_name: str | None
    feature_type: str | None
    currency: str
    valid_from: Instant
    valid_to: Instant | None = Field(description="End of validity, not included; null: open.")
    input_price_per_1k: Exact
    output_price_per_1k: Exact
    cached_input_price_per_1k: Exact
    price_per_request: Exact
    unit: str | None = Field(description="What price_per_unit is for: second or returned_token; null: nothing.")
    price_per_unit: Exact
    bill_errors: bool
    revision: int


class Plan(Answer):
    """What can be subscribed to besides a single model."""

    id: str
    name: str
    description: str | None
    amount: Exact = Field(description="Flat fee of one interval, as it is now.")
    currency: str
    interval: Literal["month", "year"]
    interval_count: int
    features: list[Any]
    limits: dict[str, Any] = Field(description="requestsPerMonth, tokensPerMonth, concurrentRequests; null: no limit.")


class PowerLevel(Answer):
    """How a power level routes, and by what its price is multiplied."""

    power_level: str
    name: str
    description: str | None
    preferred_providers: list[str]
    fallback_strategy: str
    cost_multiplier: Exact
    max_latency_ms: int | None
    min_quality_score: Exact | None


class ProviderHealth(Answer):
    """How a provider does, judged from the traffic between `window_start` and `window_end`."""

    provider: str
    status: Literal["healthy", "degraded", "down"]
    request_count: int
    error_count: int
    rate_limited_count: int
    success_rate: float | None = Field(description="Between 0 and 1; null without traffic.")
    avg_latency_ms: float | None
    p95_latency_ms: int | None = Field(description="Upper bound of the histogram bucket that holds it.")
    consecutive_failures: int
    rate_limited: bool
    last_success_at: Instant | None
    last_failure_at: Instant | None
    window_start: Instant | None
    window_end: Instant | None
    updated_at: Instant


@router.get("/models")
async def list_models(
    *,
    request: Request,
    principal: Asking,
    paging: Page,
    provider: Annotated[Word | None, Query(description="Only of this provider.")] = None,
    inactive: Annotated[bool, Query(description="Those that are out of use, too.")] = False,
) -> Listing[Model]:
    """The models that gateways serve, by name."""
    asked = {"list": "models", "provider": provider, "inactive": inactive}
    [after] = paging.key(asked, str)
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["models"], provider, inactive, after, paging.offset, paging.limit + 1)
        total = await connection.fetchval(_SQL["count_models"], provider, inactive) if paging.counted else None
    shown, cursor = page(rows, paging, asked, lambda row: [row["id"]])
    return Listing(items=[Model(**row) for row in shown], next_cursor=cursor, total=total)


@router.get("/prices")
async def list_prices(
    *,
    request: Request,
    principal: Asking,
    paging: CursorPage,
    model: Annotated[Word | None, Query(description="Only of this model.")] = None,
    currency: Annotated[str | None, Query(pattern="^[A-Z]{3}$", description="Only in this currency.")] = None,
    at: Annotated[Instant | None, Query(description="As they were or will be at this time; now without it.")] = None,
) -> Listing[Price]:
    """What usage costs, by model, tool or feature and currency: the prices in force at a time."""
    state = state_of(request)
    asked = {"list": "prices", "model": model, "currency": currency, "at": at}
    after = paging.key(asked, str, str, str)
    async with state.database.reading(principal) as connection:
        rows = await connection.fetch(
            _SQL["prices"], at or state.clock.now(), model, currency, *after, paging.limit + 1
        )
    shown, cursor = page(rows, paging, asked, lambda row: (row["what"], row["currency"], row["kind"]))
    return Listing(items=[Price(**row) for row in shown], next_cursor=cursor)


@router.get("/plans")
async def list_plans(request: Request, principal: Asking) -> Listing[Plan]:
    """The plans that can be subscribed to, the cheapest first."""
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["plans"])
    return Listing(items=[Plan(**_parsed(row, "features", "limits")) for row in rows], next_cursor=None)


@router.get("/power-levels")
async def list_power_levels(request: Request, principal: Asking) -> Listing[PowerLevel]:
    """The power levels, the cheapest first."""
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["power_levels"])
    return Listing(items=[PowerLevel(**_parsed(row, "preferred_providers")) for row in rows], next_cursor=None)


@router.get("/providers/health")
async def read_provider_health(request: Request, principal: Asking) -> Listing[ProviderHealth]:
    """How each provider does: its status, success rate and latency over its last minutes of traffic."""
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["health"])
    return Listing(items=[ProviderHealth(**_numbers(row)) for row in rows], next_cursor=None)


def _parsed(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**row, **{name: json.loads(row[name]) for name in names}}


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()}
