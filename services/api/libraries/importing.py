"""Imports libraries and their versions, in the caller's transaction: what is known already and the same is left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pydantic import Field, model_validator

from services.api.admin.fields import Count, Id
from services.api.fields import Body, Instant
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.api.libraries")


class VersionWish(Body):
    """A version of a library."""

    version: Id
    release_date: date | None = None
    is_latest: bool = False
    docs_snapshot_url: str | None = Field(None, max_length=2_000)


class LibraryWish(Body):
    """A library, with its versions. Versions that are known and not named stay."""

    id: Id = Field(description="Path-like, such as /mongodb/docs; what usage names as library_id.")
    name: Id
    vendor: Id | None = None
    repo_url: str | None = Field(None, max_length=2_000)
    docs_url: str | None = Field(None, max_length=2_000)
    default_version: Id | None = None
    popularity_score: int = Field(0, ge=0, lt=2**31)
    total_snippets: Count = 0
    total_tokens: Count = 0
    last_crawled_at: Instant | None = None
    metadata: dict[str, object] = Field({}, max_length=100)
    versions: list[VersionWish] = Field([], max_length=1_000)

    @model_validator(mode="after")
    def _versions_are_told_apart(self) -> LibraryWish:
        names = [one.version for one in self.versions]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.id}: a version is named twice")
        if sum(one.is_latest for one in self.versions) > 1:
            raise ValueError(f"{self.id}: only one version can be the latest")
        return self


@dataclass(slots=True)
class Imported:
    """How many libraries and versions were new, changed, and the same."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    new_versions: int = 0
    changed_versions: int = 0


async def import_libraries(connection: Connection, wanted: Sequence[LibraryWish]) -> Imported:
    """Make libraries and versions, or put these in the place of what was known of them."""
    done = Imported()
    for one in wanted:
        is_new = await connection.fetchval(
            SQL["put_library"], one.id, one.name, one.vendor, one.repo_url, one.docs_url, one.default_version, one.popularity_score,
            one.total_snippets, one.total_tokens, one.last_crawled_at, json.dumps(one.metadata),
        )  # fmt: skip
        done.new += is_new is True
        done.changed += is_new is False
        done.unchanged += is_new is None
        for version in one.versions:
            if version.is_latest:
                await connection.execute(SQL["only_latest"], one.id, version.version)
            made = await connection.fetchval(
                SQL["put_version"], one.id, version.version, version.release_date, version.is_latest, version.docs_snapshot_url
            )  # fmt: skip
            done.new_versions += made is True
            done.changed_versions += made is False
    return done
