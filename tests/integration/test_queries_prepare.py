"""Every query of every SQL file is one statement that a migrated database understands, and somebody asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from shared.sql import Queries

ROOT: Final = Path(__file__).parents[2]
SERVICES: Final = ("ingest", "aggregator", "billing")
TABLES: Final = {
    "shared/outbox.sql": {"table": [f"{service}_outbox" for service in SERVICES]},
    "shared/positions.sql": {"table": [f"{service}_positions" for service in SERVICES]},
    "shared/recorded.sql": {"table": ["aggregator_positions", "billing_positions"]},
    "services/api/usage/queries.sql": {
        "usage_logs": ["usage_logs", "tenant_usage_logs"],
        "rated_usage": ["rated_usage", "tenant_rated_usage"],
    },
    "services/cli/chaos/lock.sql": {"table": [f"{service}_positions" for service in SERVICES]},
    "services/ingest/partitions/partition.sql": {"partition": ["usage_logs_2026_11"]},
}
"""What stands in the place of each {placeholder} of a file."""

NEEDS_CITUS: Final = {"deploy/scale_out.sql"}
"""Asks Citus' catalogue: `make test-scale-out` runs all of it."""

FILES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("shared", "services", "deploy")
    for path in (ROOT / folder).rglob("*.sql")
    if "migrations" not in path.parts
)


def variants(file: str) -> Iterator[Queries]:
    """The file with each combination of the names that may stand in its placeholders."""
    text = (ROOT / file).read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"\{([a-z_]+)\}", text)))
    assert names == sorted(TABLES.get(file, {})), f"{file}: say in TABLES what its placeholders {names} stand for"
    for chosen in product(*(TABLES[file][name] for name in names)):
        filled = text
        for name, content in zip(names, chosen, strict=True):
            filled = filled.replace("{" + name + "}", content)
        yield Queries(filled, origin=file)


@pytest.mark.parametrize("file", sorted(set(FILES) - NEEDS_CITUS))
async def test_every_query_can_be_prepared(file: str, connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT ensure_usage_partition('2026-11-01Z')")
    problems = []
    for queries in variants(file):
        for name, query in queries.items():
            try:
                async with connection.transaction():
                    statement = await connection.prepare(query)
                    if re.search(r"^CREATE TEMP", query, re.MULTILINE) and not statement.get_parameters():
                        await connection.execute(query)  # what follows in the file works on it
            except asyncpg.PostgresError as error:
                problems.append(f"{file}: {name}: {error}")
    assert problems == []


def test_there_are_queries_to_prepare() -> None:
    assert {"services/ingest/queries.sql", "shared/outbox.sql", "shared/positions.sql"} <= set(FILES)


def test_every_query_is_asked_for() -> None:
    code = "\n".join(
        path.read_text() for folder in ("shared", "services", "deploy") for path in (ROOT / folder).rglob("*.py")
    )
    unused = [
        f"{file}: {name}"
        for file in FILES
        for name in Queries((ROOT / file).read_text(), origin=file)
        if f'"{name}"' not in code
    ]
    assert unused == []
