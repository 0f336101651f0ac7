"""Routes of libraries: everybody who is known reads them."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query, Request

from services.api.admin.listing import Json, fetch_page
from services.api.auth.asking import Asking
from services.api.fields import Answer, Instant
from services.api.libraries.importing import SQL
from services.api.paging import Listing, Page
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of

router = APIRouter(prefix="/api/v1/libraries", tags=["libraries"])


class Library(Answer):
    """A library whose documentation is served."""

    id: str
    name: str
    vendor: str | None
    repo_url: str | None
    docs_url: str | None
    default_version: str | None
    popularity_score: int
    total_snippets: int
    total_tokens: int
    last_crawled_at: Instant | None
    metadata: Json
    updated_at: Instant


class Version(Answer):
    """A version of a library."""

    version: str
    release_date: date | None
    is_latest: bool
    docs_snapshot_url: str | None


class WholeLibrary(Library):
    """A library with its versions, the latest first."""

    versions: list[Version]


@router.get("")
async def list_libraries(
    request: Request,
    principal: Asking,
    paging: Page,
    *,
    vendor: str | None = None,
    search: Annotated[str | None, Query(max_length=200, description="Words of the name, or a part of the id.")] = None,
) -> Listing[Library]:
    """List libraries, the most popular first."""
    async with state_of(request).database.reading(principal) as connection:
        filters = {"vendor": vendor, "search": search}
        return await fetch_page(
            connection, "libraries", filters, paging, Library, key=("popularity_score", "id"), sql=SQL
        )


@router.get("/{library_id:path}")
async def show_library(request: Request, principal: Asking, library_id: str) -> WholeLibrary:
    """Show a library with its versions. Its id has slashes; the first may be left out."""
    async with state_of(request).database.reading(principal) as connection:
        row = await connection.fetchrow(SQL["library"], library_id)
        if row is None:
            raise Problem(NOT_FOUND, f"there is no library {library_id}")
        versions = await connection.fetch(SQL["versions"], row["id"])
    return WholeLibrary(**dict(row), versions=[Version.model_validate(dict(one)) for one in versions])
