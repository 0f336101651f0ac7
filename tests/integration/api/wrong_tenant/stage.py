"""The stage of the sweep: somebody who has one of everything, somebody else who tries to get at it, and what each route is tried with.

Each file of `cases/` has a dictionary CASES, from "METHOD /path/{template}" to a case, and may have `async def prepare(stage)`, which makes
what the victim has. A route without a case fails the sweep; routes under /api/v1/admin/ need none: to a user without a role they are
closed. The cases:

    refused(key_id="key")                      403 or 404, with the victim's thing of that name in the path
    refused(json=lambda stage: {…})            the same, by what the body names; `query` likewise
    own()                                      answered, or refused, but with nothing of the victim's
    closed()                                   403: it is for others than plain users
    public()                                   answered to anybody, whoever asks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from shared.postgres import Connection
from tests.integration.api.facts import Customer, Facts

_ROWS = """
SELECT c.relname::text AS name, array_agg(a.attname::text) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND (a.attname IN ('user_id', 'subscription_id') OR c.relname = 'users' AND a.attname = 'id')
GROUP BY c.relname ORDER BY c.relname
"""
"""The tables whose rows are somebody's, and the columns that say whose."""


@dataclass(slots=True)
class Stage:
    """What there is. `things` are the victim's, by name; none of them may show in an answer to somebody else."""

    facts: Facts
    victim: Customer
    things: dict[str, str] = field(default_factory=dict)

    def has(self, name: str, thing: object) -> None:
        """Say that the victim has something that identifies it: an id, or a text that nobody else has."""
        self.things[name] = str(thing)

    async def rows(self, connection: Connection) -> dict[str, str]:
        """Return a digest of all that is the victim's, by table."""
        owner: Mapping[str, UUID] = {
            "user_id": self.victim.user_id, "subscription_id": self.victim.subscription_id, "id": self.victim.user_id
        }  # fmt: skip
        return {
            table["name"]: await connection.fetchval(
                f"SELECT coalesce(md5(string_agg(t::text, ' ' ORDER BY t::text)), 'none') FROM {table['name']} t WHERE "  # noqa: S608
                + " OR ".join(f"{column} = '{owner[column]}'" for column in table["columns"])
            )
            for table in await connection.fetch(_ROWS)
        }


Made = Callable[[Stage], Any]
REFUSED: Final = frozenset({403, 404})
ANSWERED: Final = frozenset({200, 201, 202, 204, 400, 401, 403, 404, 406, 409, 415, 422})


@dataclass(frozen=True, slots=True)
class Case:
    """What a route is tried with, and which statuses are right."""

    expected: frozenset[int]
    path: Mapping[str, str] = field(default_factory=dict)
    json: Made | None = None
    query: Made | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False


def refused(
    *, json: Made | None = None, query: Made | None = None, headers: Mapping[str, str] | None = None, **path: str
) -> Case:
    """The victim's thing is named, in the path, the body or the query: there is no such thing, for this asker."""
    return Case(REFUSED, path, json, query, headers or {})


def own(
    *, json: Made | None = None, query: Made | None = None, headers: Mapping[str, str] | None = None, **path: str
) -> Case:
    """The answer is of the asker alone, whatever is named."""
    return Case(ANSWERED, path, json, query, headers or {})


def closed(**path: str) -> Case:
    """Plain users are refused, whatever they name."""
    return Case(frozenset({403}), path)


def public(*, json: Made | None = None) -> Case:
    """Everybody is answered; there is nothing of a tenant's in it."""
    return Case(ANSWERED, {}, json, anonymous=True)
