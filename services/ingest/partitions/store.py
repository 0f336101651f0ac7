"""The IO of partitions with Postgres; the SQL is in queries.sql and, for what is done to one partition, in partition.sql."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import asyncpg

from services.ingest.partitions.manifest import Manifest, PartitionError, Sums, encode, spelled, table_of
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.ingest.partitions")
Place: TypeAlias = Literal["attached", "detaching", "detached"]


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the log. `rows` are an estimate while it is in the database; sizes in bytes."""

    name: str
    state: str
    attached: bool
    rows: int
    bytes: int
    file: str | None


@lru_cache(maxsize=64)
def of(month: Period) -> Queries:
    """Return the statements for one month's partition."""
    return Queries.load("services.ingest.partitions", "partition.sql", partition=table_of(month))


async def months(connection: Connection) -> list[Month]:
    """Return all months, the earliest first."""
    return [Month(*row) for row in await connection.fetch(SQL["months"])]


async def place(connection: Connection, month: Period) -> Place | None:
    """Tell where the table of a month is; None if there is none."""
    return await connection.fetchval(SQL["place"], table_of(month))  # type: ignore[no-any-return]


async def archive_of(connection: Connection, month: Period) -> Any:
    """Return what is noted of a month: state, file, sha256, manifest; None if nothing is."""
    return await connection.fetchrow(SQL["archive"], month.start)


async def obstacles(connection: Connection, month: Period, accepted_until: datetime) -> list[str]:
    """Return what keeps a month in the database, each with what to do. `accepted_until`: when its last events may still come."""
    bounds = (month.start, month.end)
    found = [f"legal hold {hold['id']}: {hold['why']}" for hold in await connection.fetch(SQL["open_holds"], *bounds)]
    invoices = [f"{row['name']} ({row['status']})" for row in await connection.fetch(SQL["open_invoices"], *bounds)]
    if invoices:
        found.append(f"{len(invoices)} invoices refer to it that are open or disputed, first {invoices[0]}")
    if unbilled := await connection.fetchval(SQL["unbilled"], *bounds):
        found.append(f"{unbilled} of its events are rated but not billed, or wait for a price")
    if refused := await connection.fetchval(SQL["open_quarantine"], month.start, accepted_until):
        found.append(f"{refused} quarantined records may be its events: replay or discard them")
    if held := await connection.fetchval(SQL["open_held"], *bounds):
        found.append(f"{held} of its events are held for want of their subscription or key")
    if unheard := await connection.fetchval(of(month)["unheard"]):
        found.append(f"{unheard} of its batches have not been applied by the aggregator and billing")
    return found


async def close(connection: Connection, month: Period) -> None:
    """Let no row into a month any more, in one transaction with the note that it is being archived.

    Raises `PartitionError` while a long statement reads the month: others would queue behind this one.
    """
    try:
        async with connection.transaction():
            await connection.execute(SQL["wait_briefly"])
            await connection.execute(SQL["begin_archive"], month.start)
            await connection.execute(of(month)["open"])
            await connection.execute(of(month)["close"])
    except asyncpg.LockNotAvailableError:
        raise PartitionError(
            f"{describe(month)} stays: a statement reads it for long; try again when that is through"
        ) from None


async def is_closed(connection: Connection, month: Period) -> bool:
    """Tell whether a month is on its way out, since this run or an interrupted one."""
    noted = await archive_of(connection, month)
    return noted is not None and noted["state"] == "archiving"


async def give_up(connection: Connection, month: Period) -> None:
    """Let rows in again: the month stays. Raises asyncpg's `LockNotAvailableError` while it is read for long: the next run does it."""
    async with connection.transaction():
        await connection.execute(SQL["wait_briefly"])
        await connection.execute(SQL["give_up"], month.start)
        await connection.execute(SQL["give_up_again"], month.start)
        await connection.execute(of(month)["open"])


async def sums(connection: Connection, month: Period, format_: int) -> tuple[Sums, str]:
    """Return what the table of a month sums to, and the digest of those columns of its rows that an archive of this format has."""
    row = await connection.fetchrow(of(month)["sums" if format_ > 1 else "sums_of_format_1"])
    counts = {name: int(row[name]) for name in ("rows", "request_tokens", "response_tokens", "cached_tokens")}
    return Sums(**counts, first_event_at=row["first_event_at"], last_event_at=row["last_event_at"]), row["digest"]


async def rows(connection: Connection, month: Period, batch: int) -> AsyncIterator[Sequence[Sequence[Any]]]:
    """Return the rows of a month in batches, within the caller's transaction."""
    cursor = await connection.cursor(of(month)["rows"])
    while found := await cursor.fetch(batch):
        yield found


async def note(connection: Connection, month: Period, manifest: Manifest) -> None:
    """Keep what the month sums to, and what is known of its file."""
    async with connection.transaction():
        for name in ("forget_sums", "forget_batches"):
            await connection.execute(SQL[name], month.start)
        for name in ("record_sums", "record_batches"):
            await connection.execute(of(month)[name], month.start)
        text = json.dumps(json.loads(encode(manifest)))
        await connection.execute(SQL["note_archive"], month.start, manifest.file, manifest.sha256, text)


async def finish(connection: Connection, month: Period) -> None:
    """Drop the detached table."""
    async with connection.transaction():
        await connection.execute(of(month)["drop"])
        await connection.execute(SQL["finish_archive"], month.start)


async def take_turn(connection: Connection) -> bool:
    """Become the only one who archives or restores; False if somebody is."""
    return bool(await connection.fetchval(SQL["take_turn"]))


async def end_turn(connection: Connection) -> None:
    """Let the next one."""
    await connection.execute(SQL["end_turn"])


def describe(month: Period) -> str:
    """Return how messages call a month."""
    return f"usage of {spelled(month)}"
