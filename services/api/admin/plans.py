"""Plans, and their versions."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.api.admin.fields import Count, Currency, Id
from services.api.admin.listing import SQL, Json
from services.api.auth.asking import Administrator
from services.api.fields import Amount, Answer, Body, Instant
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from services.billing.plans.desk.publishing import checked, publish
from services.billing.plans.store import ALWAYS, read_plans
from services.billing.plans.terms import PlanTerms
from shared.postgres import Connection

router = APIRouter(prefix="/api/v1/admin/plans", tags=["admin: plans"])


class Limits(Body):
    """What a plan includes at most, per month; null is no limit. They become the quotas of subscriptions where `hard_limits`."""

    requestsPerMonth: Count | None = None  # noqa: N815 (the seeds' names)
    tokensPerMonth: Count | None = None  # noqa: N815
    concurrentRequests: Count | None = None  # noqa: N815


class PlanWish(Body):
    """A plan, or a version of one that is there: docs/how-to/plans-and-subscriptions.md explains each part."""

    id: Id
    name: Id
    description: str | None = Field(None, max_length=2_000)
    features: list[str] = Field([], max_length=100)
    amount: Amount = Field(ge=0, description="Flat fee of one interval.")
    currency: Currency
    interval: Literal["month", "year"] = "month"
    interval_count: int = Field(1, ge=1, le=120)
    billing_periods: Literal["anchored", "calendar"] = "anchored"
    fee_timing: Literal["advance", "arrears"] = "advance"
    trial_days: int = Field(0, ge=0, le=3650)
    limits: Limits = Limits()
    hard_limits: bool = True
    usage: Literal["priced", "included"] = "priced"
    meters: list[dict[str, Any]] = Field(
        [], max_length=100, description="What is counted and charged beyond what is included."
    )
    minimum: Amount | None = Field(None, gt=0, description="What an interval costs at least.")
    note: str | None = Field(None, max_length=1_000)
    valid_from: Instant | None = Field(
        None, description="When a version begins, to come; at once without it. Of a new plan it is left out."
    )


class Published(Answer):
    """A version that was made."""

    plan: str
    is_new: bool
    valid_from: Instant | None = Field(description="Null: it has always been in force.")


class Version(Answer):
    """What a plan asks for from `valid_from` on, until the next version."""

    id: str
    valid_from: Instant | None = Field(description="Null: always.")
    amount: Amount
    currency: str
    months: int = Field(description="Length of its interval.")
    billing_periods: str
    fee_timing: str
    trial_days: int
    usage: str
    limits: dict[str, int | None]
    hard_limits: bool
    meters: list[str] = Field(description="The keys of what is counted.")
    meter_terms: Json = Field(description="What is counted and charged, as it was written.")
    minimum: Amount | None


class Plan(Answer):
    """A plan with its versions, past, present and planned."""

    id: str
    name: str
    description: str | None
    features: Json
    is_active: bool = Field(description="Whether it can be subscribed to.")
    subscriptions: int = Field(description="Live subscriptions to it.")
    created_at: Instant
    versions: list[Version]


class _Tried(Exception):
    """A version was made for a look: it is undone."""


class Opening(Body):
    """Whether a plan can be subscribed to."""

    is_active: bool


@router.get("")
async def list_all_plans(request: Request, principal: Administrator) -> list[Plan]:
    """List the plans, with those that are closed."""
    async with state_of(request).database.reading(principal) as connection:
        return await _plans(connection)


@router.get("/{plan_id}")
async def show_plan(request: Request, principal: Administrator, plan_id: str) -> Plan:
    """Show a plan with every version of it."""
    async with state_of(request).database.reading(principal) as connection:
        return await _plan(connection, plan_id)


@router.post("", status_code=201)
async def publish_plan(
    request: Request,
    principal: Administrator,
    body: PlanWish,
    *,
    dry_run: Annotated[bool, Query(description="Only say what would be made, or why it cannot be.")] = False,
) -> Published:
    """Make a plan, or a new version of one. Subscriptions go by it from their next interval on; what was charged stands."""
    given = body.model_dump(exclude={"valid_from", "limits"}) | {"limits": body.limits.model_dump(exclude_unset=True)}
    given["meters"] = [{name: _exact(value) for name, value in meter.items()} for meter in body.meters]
    with contextlib.suppress(_Tried):
        async with state_of(request).database.operating(principal, body.note or "") as connection:
            made = await publish(connection, checked(given), valid_from=body.valid_from)
            if dry_run:
                raise _Tried
    return Published(plan=made.plan_id, is_new=made.is_new, valid_from=None if made.is_new else made.valid_from)


@router.patch("/{plan_id}")
async def open_plan(request: Request, principal: Administrator, plan_id: str, body: Opening) -> Plan:
    """Close a plan, so that nobody can begin it any more, or open it again. Its subscriptions go on."""
    async with state_of(request).database.operating(principal) as connection:
        await connection.fetchval(SQL["open_plan"], plan_id, body.is_active)
        return await _plan(connection, plan_id)


def _exact(value: Any) -> Any:
    """Return what was written of a meter with its digits kept."""
    if isinstance(value, float):
        return Decimal(str(value))
    if isinstance(value, list):
        return [_exact(inner) for inner in value]
    return {name: _exact(inner) for name, inner in value.items()} if isinstance(value, dict) else value


async def _plan(connection: Connection, plan_id: str) -> Plan:
    found = await _plans(connection, plan_id)
    if not found:
        raise Problem(NOT_FOUND, f"there is no plan {plan_id}")
    return found[0]


async def _plans(connection: Connection, plan_id: str | None = None) -> list[Plan]:
    terms = await read_plans(connection)
    meters = {row["id"]: row["meters"] for row in await connection.fetch(SQL["version_meters"], plan_id)}
    return [
        Plan(**dict(row), versions=[_version(one, meters[one.id]) for one in terms[row["id"]].terms])
        for row in await connection.fetch(SQL["plan_rows"], plan_id)
    ]


def _version(terms: PlanTerms, meters: str) -> Version:
    return Version(
        id=str(terms.id),
        valid_from=None if terms.valid_from == ALWAYS else terms.valid_from,
        amount=terms.amount,
        currency=terms.currency,
        months=terms.months,
        billing_periods="calendar" if terms.calendar else "anchored",
        fee_timing="arrears" if terms.in_arrears else "advance",
        trial_days=terms.trial_days,
        usage="included" if terms.includes_usage else "priced",
        limits={name: None if limit is None else int(limit) for name, limit in terms.limits.items()},
        hard_limits=terms.hard_limits,
        meters=[meter.key for meter in terms.meters],
        meter_terms=meters,
        minimum=terms.minimum,
    )
