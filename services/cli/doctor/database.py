"""Reads the facts of the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg

from deploy.migrate import Migration
from services.cli.doctor.facts import Database, Position, Role, Session, Slot, Table
from services.cli.doctor.settings import READ
from shared.outbox import Outbox
from shared.sql import Queries

SQL: Final = Queries.load("services.cli.doctor")
OUTBOXES: Final = {service: Outbox(f"{service}_outbox") for service in ("ingest", "aggregator", "billing")}
OPEN_SECONDS: Final = 30.0
"""Younger transactions are nobody's business."""


async def read(
    connection: asyncpg.Connection, *, cluster: str, months_ahead: int, pending: Sequence[Migration]
) -> Database:
    """Ask the database. Raises what asyncpg raises for a schema that is missing or older than this release."""
    await connection.execute(SQL["be_brief"])
    server = await connection.fetchrow(SQL["server"])
    asked = datetime.now(UTC)
    theirs = await connection.fetchval(SQL["clock"])
    half = (datetime.now(UTC) - asked) / 2
    rows = {name: await connection.fetch(SQL[name]) for name in ("invalid_indexes", "roles", "slots")}
    return Database(
        version=server["version"],
        name=server["name"],
        bytes=server["bytes"],
        settings={row["name"]: row["setting"] for row in await connection.fetch(SQL["settings"], list(READ))},
        read_only=server["read_only"],
        clock_ahead=theirs - asked - half,
        clock_uncertainty=half,
        connections={row["application"]: row["sessions"] for row in await connection.fetch(SQL["connections"])},
        xid_age=server["xid_age"],
        pending_migrations=tuple(migration.file for migration in pending),
        tables=await _tables(connection),
        invalid_indexes=tuple(row["name"] for row in rows["invalid_indexes"]),
        sessions=tuple(Session(**row) for row in await connection.fetch(SQL["sessions"], OPEN_SECONDS)),
        missing_months=tuple(
            row["month"] for row in await connection.fetch(SQL["missing_months"], datetime.now(UTC), months_ahead)
        ),
        roles=tuple(Role(**row) for row in rows["roles"]),
        slots=tuple(Slot(**row) for row in rows["slots"]),
        positions=tuple(Position(**row) for row in await connection.fetch(SQL["positions"], cluster)),
        outboxes={service: (await outbox.waiting(connection))[1] for service, outbox in OUTBOXES.items()},
    )


async def _tables(connection: asyncpg.Connection) -> tuple[Table, ...]:
    try:
        rows = await connection.fetch(SQL["tables"])
    except asyncpg.LockNotAvailableError:  # somebody has locked a table against everybody
        rows = await connection.fetch(SQL["tables_by_statistics"])
    return tuple(Table(**row) for row in rows)
