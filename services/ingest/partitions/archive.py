"""Moves a month of the log to a file, and back.

A month is archived in steps of which each can be repeated, so an interrupted run is ended by the next:
close it to new rows → see that nothing refers to it → write the file, read it again and compare → note its sums → detach → drop.
The sums count for the log from the moment that the month is detached: reconciliation holds at every step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from services.ingest.partitions import parquet, store
from services.ingest.partitions.manifest import (
    COLUMNS,
    FORMAT,
    Manifest,
    PartitionError,
    decode,
    encode,
    spelled,
    table_of,
)
from shared.period import Period
from shared.postgres import Connection


async def archive(
    connection: Connection, month: Period, directory: Path, *, now: datetime, late: timedelta
) -> Manifest:
    """Move a month of usage_logs to a Parquet file in `directory`. `late` is how old an event may be that ingest accepts.

    `connection` has the rights of the owner and is in no transaction. Raises `PartitionError` if something keeps the month
    in the database; then it is as it was before.
    """
    if month.end + late > now:
        raise PartitionError(
            f"{store.describe(month)} stays: events of it are accepted until {month.end + late:%Y-%m-%d %H:%M} UTC"
        )
    async with _turn(connection):
        place = await store.place(connection, month)
        if place is None:
            return await _finished_before(connection, month)
        if place == "attached":
            await _refuse_if_needed(connection, month, month.end + late)
            await store.close(connection, month)
            try:
                await _refuse_if_needed(connection, month, month.end + late)  # what came in just before it was closed
                manifest = await _export(connection, month, directory, now)
            except BaseException:
                if await store.is_closed(connection, month):
                    await store.give_up(connection, month)
                raise
            await store.note(connection, month, manifest)
            await connection.execute(store.of(month)["detach"])
        else:  # an earlier run was interrupted after its sums were noted: whatever became of its file, write it again
            if place == "detaching":
                await connection.execute(store.of(month)["finish_detaching"])
            manifest = await _export(connection, month, directory, now)
            await store.note(connection, month, manifest)
        await store.finish(connection, month)
        return manifest


async def restore(connection: Connection, path: Path) -> tuple[Manifest, bool]:
    """Bring an archived month back into usage_logs from its file, in one transaction; verified before it is attached.

    Returns the manifest, and False if the month was there already. Raises `PartitionError`; then nothing has changed.
    """
    manifest = read_manifest(path)
    month = Period.parse_month(manifest.month)
    async with _turn(connection):
        noted, place = await store.archive_of(connection, month), await store.place(connection, month)
        if noted is None:
            raise PartitionError(
                f"{store.describe(month)} was never archived from this database: {path} is of another one"
            )
        if noted["sha256"] != manifest.sha256:
            raise PartitionError(
                f"{path} is not the archive of {spelled(month)} that this database wrote last ({noted['file']})"
            )
        if noted["state"] == "restored" and place == "attached":
            return manifest, False
        if place is not None:
            raise PartitionError(
                f"archiving {spelled(month)} was interrupted: run 'tallystick partitions archive' again first"
            )
        _check_file(path, manifest)
        async with connection.transaction():
            await connection.execute(store.of(month)["create"])
            for batch in parquet.read(path, manifest.schema):
                await connection.copy_records_to_table(table_of(month), columns=list(manifest.schema), records=batch)
            if await store.sums(connection, month, manifest.format) != (manifest.sums, manifest.digest):
                raise PartitionError(f"the rows that {path} gave are not those that were archived")
            await connection.execute(store.SQL["attach"], month.start)
            await connection.execute(store.SQL["guard"], month.start)
            await connection.execute(store.SQL["note_restored"], month.start)
        return manifest, True


def read_manifest(path: Path) -> Manifest:
    """Return the manifest beside an archive file. Raises `PartitionError` if one of the two is missing."""
    manifest = _manifest_path(path)
    for needed in (path, manifest):
        if not needed.is_file():
            raise PartitionError(
                f"there is no file {needed}" + (": it belongs to the archive" if needed == manifest else "")
            )
    return decode(manifest.read_bytes(), where=str(manifest))


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".manifest.json")


async def _refuse_if_needed(connection: Connection, month: Period, accepted_until: datetime) -> None:
    if found := await store.obstacles(connection, month, accepted_until):
        if await store.is_closed(connection, month):
            await store.give_up(connection, month)
        raise PartitionError(f"{store.describe(month)} stays: {'; '.join(found)}")


async def _export(connection: Connection, month: Period, directory: Path, now: datetime) -> Manifest:
    """Write the file and its manifest, then compare what is on the disk with what is in the table."""
    path = _path_in(directory, month)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        sums, digest = await store.sums(connection, month, FORMAT)
        await parquet.write(path, store.rows(connection, month, parquet.BATCH_ROWS))
    manifest = Manifest(
        format=FORMAT,
        month=spelled(month),
        file=str(path.absolute()),
        bytes=path.stat().st_size,
        sha256=parquet.sha256(path),
        sums=sums,
        digest=digest,
        schema=COLUMNS,
        written_at=now,
    )
    _manifest_path(path).write_bytes(encode(manifest))
    _check_file(path, read_manifest(path))
    return manifest


def _path_in(directory: Path, month: Period) -> Path:
    """Return where the file of a month goes; the directory is made."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{table_of(month)}.parquet"


def _check_file(path: Path, manifest: Manifest) -> None:
    """Compare a file with its manifest, by its bytes and by what it holds. Raises `PartitionError`."""
    if parquet.sha256(path) != manifest.sha256:
        raise PartitionError(f"{path} is damaged: its checksum is not the one in its manifest")
    if parquet.sums(path) != manifest.sums:
        raise PartitionError(f"{path} does not hold the rows that its manifest counts")


async def _finished_before(connection: Connection, month: Period) -> Manifest:
    """Return the manifest of a month that is archived already. Raises `PartitionError` if there is no such month."""
    noted = await store.archive_of(connection, month)
    if noted is None or noted["manifest"] is None:
        raise PartitionError(f"there is no {store.describe(month)} in usage_logs: see 'tallystick partitions list'")
    return decode(noted["manifest"].encode(), where="usage_archives")


@asynccontextmanager
async def _turn(connection: Connection) -> AsyncIterator[None]:
    if not await store.take_turn(connection):
        raise PartitionError(
            "another run archives or restores, or summaries are being rebuilt: try again when it is through"
        )
    try:
        yield
    finally:
        if not connection.is_closed():
            await store.end_turn(connection)
