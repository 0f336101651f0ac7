"""The application over a database of the test's own, as the tests of the API have it; somebody signs in as a browser does."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import httpx
import pytest_asyncio

from services.accounts.users.desk import Wish, add_user
from shared.postgres import Pool, transaction
from tests.integration.api.conftest import app, client, clock, facts
from tests.integration.schema_facts import make_subscription

__all__ = ["app", "client", "clock", "facts"]

PASSWORD = "a long sentence that nobody guesses"
HTML = {"Accept": "text/html"}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is signed in: the client keeps their cookies."""

    id: UUID
    email: str
    subscription_id: UUID | None


SignIn = Callable[..., Awaitable[Person]]


@pytest_asyncio.fixture
async def sign_in(client: httpx.AsyncClient, database_pool: Pool) -> SignIn:
    """Make a user with these roles, and sign them in."""

    async def made(
        *roles: str, name: str | None = None, subscribed: bool = True, email: str = "ada@example.com"
    ) -> Person:
        async with transaction(database_pool) as connection:
            id_ = await add_user(connection, Wish(email, name, roles, PASSWORD))
            subscription = await make_subscription(connection, id_) if subscribed else None
        page = await client.get("/console/sign-in")
        answer = await client.post(
            "/console/sign-in", data={"csrf": csrf_of(page), "email": email, "password": PASSWORD, "next": "/console/"}
        )
        assert answer.status_code == 303, answer.text
        return Person(id_, email, subscription)

    return made


def csrf_of(answer: httpx.Response) -> str:
    """The token in the forms of a page."""
    return field_of(answer, "csrf")


def field_of(answer: httpx.Response, name: str) -> str:
    """The value of a hidden field of a page."""
    found = re.search(rf'name="{name}" value="([^"]*)"', answer.text)
    assert found, f"no field {name} in {answer.text}"
    return found.group(1)
