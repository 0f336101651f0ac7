"""Users: found, made, given roles and tiers, let in or not, erased."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, SecretStr

from services.accounts.users import desk
from services.api.admin.fields import MaybeWhy, Why
from services.api.admin.listing import SQL, Json, fetch_page
from services.api.auth.asking import Administrator, Finance
from services.api.fields import Amount, Answer, Body, Instant
from services.api.paging import Listing, Page
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from shared.postgres import Connection

router = APIRouter(prefix="/api/v1/admin/users", tags=["admin: users"])

Role = Literal["user", "admin", "finance", "service"]
Tier = Literal["free", "trial", "starter", "pro", "professional", "enterprise"]
Text = Annotated[str, Field(min_length=1, max_length=320)]
Email = Annotated[
    str,
    Field(max_length=320, pattern=r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$", examples=["ada@example.com"]),
]


class User(Answer):
    """A user."""

    id: UUID
    username: str
    email: str
    full_name: str | None
    roles: list[str]
    subscription_tier: str
    is_active: bool
    email_verified: bool
    last_login_at: Instant | None
    anonymised_at: Instant | None
    created_at: Instant
    updated_at: Instant


class WholeUser(User):
    """A user, with what there is of it."""

    subscriptions: Json = Field(description="How many, by status.")
    credits: Amount
    notes: int
    flagged_notes: int
    total_actions: int = Field(description="What it did in the portal.")
    actions_this_week: int
    last_activity: Instant | None
    most_common_action: str | None


class Stats(Answer):
    """Users in figures. A day is that of UTC, the week the last seven days."""

    total_users: int
    active_users_today: int
    new_users_this_week: int
    total_usage_metrics: int


class NewUser(Body):
    """A user that is to be made. With neither a password nor a subject at an identity provider they cannot log in (yet)."""

    email: Email
    full_name: Text | None = None
    roles: list[Role] = Field(["user"], max_length=4, description="Everybody is a user.")
    subscription_tier: Tier = "free"
    password: SecretStr | None = Field(None, max_length=200)
    provider: Text | None = Field(None, description="The identity provider.")
    subject: Text | None = Field(None, description="Who the user is there.")
    why: MaybeWhy = ""


class UserChange(Body):
    """What is to change of a user; what is left out, or null, stays as it is."""

    email: Email | None = None
    full_name: Text | None = None
    roles: list[Role] | None = Field(
        None, max_length=4, description="All that the user shall have; everybody is a user."
    )
    subscription_tier: Tier | None = None
    is_active: bool | None = Field(None, description="Whether it may log in, and its keys are valid.")
    email_verified: bool | None = None
    why: MaybeWhy = ""


class Erasure(Body):
    """Why somebody is to be erased."""

    why: Why


@router.get("")
async def list_users(
    request: Request,
    principal: Administrator,
    paging: Page,
    *,
    search: Annotated[str | None, Query(max_length=320, description="A part of the e-mail address or a name.")] = None,
    role: Role | None = None,
    tier: Tier | None = None,
    active: bool | None = None,
) -> Listing[User]:
    """List users, the newest first; `total` counts all of this description."""
    filters = {"search": search, "role": role, "tier": tier, "active": active}
    async with state_of(request).database.reading(principal) as connection:
        found = await fetch_page(connection, "users", filters, paging, User)
        total = await connection.fetchval(SQL["count_users"], *filters.values())
    return Listing[User](items=found.items, next_cursor=found.next_cursor, total=total)


@router.get("/stats")
async def count_users(request: Request, principal: Administrator) -> Stats:
    """Count users: all, those who were here today, those who came this week."""
    async with state_of(request).database.reading(principal) as connection:
        return Stats.model_validate(dict(await connection.fetchrow(SQL["user_stats"])))


@router.get("/{user_id}")
async def show_user(request: Request, principal: Administrator, user_id: UUID) -> WholeUser:
    """Show a user with what there is of it: subscriptions, credits, notes, what it did in the portal."""
    async with state_of(request).database.reading(principal) as connection:
        user = await _user(connection, user_id)
        facts = await connection.fetchrow(SQL["user_facts"], user_id)
    return WholeUser.model_validate({**dict(user), **dict(facts)})


@router.post("", status_code=201)
async def create_user(request: Request, principal: Administrator, body: NewUser) -> User:
    """Make a user."""
    password = body.password.get_secret_value() if body.password else None
    wish = desk.Wish(
        email=body.email, full_name=body.full_name, roles=body.roles, password=password, provider=body.provider, subject=body.subject,
        subscription_tier=body.subscription_tier,
    )  # fmt: skip
    async with state_of(request).database.operating(principal, body.why) as connection:
        return await _user(connection, await desk.add_user(connection, wish))


@router.patch("/{user_id}")
async def change_user(request: Request, principal: Administrator, user_id: UUID, body: UserChange) -> User:
    """Change a user: roles, tier, whether it is let in. The last administrator stays one."""
    changes = body.model_dump(include={"email", "full_name", "email_verified", "subscription_tier"}, exclude_none=True)
    async with state_of(request).database.operating(principal, body.why) as connection:
        before = await _user(connection, user_id)
        if changes:
            await desk.change_account(connection, user_id, changes)
        if body.roles is not None:
            gone = set(before.roles) - {"user", *body.roles}
            await desk.change_roles(connection, user_id, add=body.roles, remove=gone)
        if body.is_active is not None:
            await desk.set_active(connection, user_id, active=body.is_active)
        return await _user(connection, user_id)


@router.post("/{user_id}/anonymise")
async def anonymise_user(request: Request, principal: Administrator, user_id: UUID, body: Erasure) -> User:
    """Erase who a user was, for good. Usage, ledger, invoices and the audit trail stay; subscriptions have to be ended before."""
    async with state_of(request).database.operating(principal, body.why) as connection:
        await desk.anonymise(connection, user_id)
        return await _user(connection, user_id)


async def names_of(request: Request, principal: Finance, users: Iterable[UUID]) -> dict[UUID, str]:
    """Return what users are called, for lists of what is theirs."""
    async with state_of(request).database.reading(principal) as connection:
        return {row["id"]: row["name"] for row in await connection.fetch(SQL["user_names"], list(set(users)))}


async def _user(connection: Connection, user_id: UUID) -> User:
    row = await connection.fetchrow(SQL["user"], user_id)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no user {user_id}")
    return User.model_validate(dict(row))
