"""Libraries and their versions, imported from JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.api.auth.asking import Administrator
from services.api.fields import Answer, Body
from services.api.libraries.importing import LibraryWish, import_libraries
from services.api.state import state_of

router = APIRouter(prefix="/api/v1/admin/libraries", tags=["admin: libraries"])


class LibrariesWish(Body):
    """Libraries that are to be there."""

    libraries: list[LibraryWish] = Field(min_length=1, max_length=5_000)


class Imported(Answer):
    """What an import came to, or would come to."""

    dry_run: bool
    new: int
    changed: int
    unchanged: int
    new_versions: int
    changed_versions: int


@router.post("/import")
async def import_all_libraries(
    request: Request,
    principal: Administrator,
    body: LibrariesWish,
    *,
    dry_run: Annotated[bool, Query(description="Only say what would be done.")] = False,
) -> Imported:
    """Make libraries and versions, all or none; what is known of them is replaced, what is not named stays."""
    async with state_of(request).database.operating(principal) as connection:
        attempt = connection.transaction()
        await attempt.start()
        done = await import_libraries(connection, body.libraries)
        await (attempt.rollback() if dry_run else attempt.commit())
    return Imported(
        dry_run=dry_run, new=done.new, changed=done.changed, unchanged=done.unchanged,
        new_versions=done.new_versions, changed_versions=done.changed_versions,
    )  # fmt: skip
