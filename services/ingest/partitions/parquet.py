"""Archive files: Parquet, so that anything can read them without this program. pyarrow is an optional extra."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from services.ingest.partitions.manifest import COLUMNS, PartitionError, Sums

BATCH_ROWS: Final = 20_000
"""Rows that are in memory at once, and in one row group of a file."""
_READ_BYTES = 1 << 20


def _arrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415 (an optional extra, and slow to import)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise PartitionError("archives need pyarrow: pip install 'tallystick[archive]'") from None
    return pyarrow


def _schema(arrow: Any, columns: Mapping[str, str] = COLUMNS) -> Any:
    types = {
        "timestamptz": arrow.timestamp("us", tz="UTC"), "uuid": arrow.string(), "text": arrow.string(),
        "jsonb": arrow.string(), "bigint": arrow.int64(), "integer": arrow.int32(), "smallint": arrow.int16(),
        "boolean": arrow.bool_(),
    }  # fmt: skip
    return arrow.schema([(name, types[type_]) for name, type_ in columns.items()])


async def write(path: Path, batches: AsyncIterator[Sequence[Sequence[Any]]]) -> None:
    """Write rows, in the order of `COLUMNS`, to a file that is whole or not there."""
    arrow = _arrow()
    schema, unfinished = _schema(arrow), path.with_name(path.name + ".part")
    with arrow.parquet.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        async for rows in batches:
            columns = zip(*rows, strict=True)
            arrays = [arrow.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
    unfinished.replace(path)


def read(path: Path, columns: Mapping[str, str]) -> Iterator[list[tuple[Any, ...]]]:
    """Return the rows of a file in batches, in the order of `columns`, which it must have. Raises `PartitionError` if it is no such file."""
    arrow = _arrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            if not file.schema_arrow.equals(_schema(arrow, columns)):
                raise PartitionError(f"{path} does not have the columns of an archive")
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except arrow.ArrowInvalid as error:
        raise PartitionError(f"{path} is not a Parquet file, or is damaged ({error})") from None


def sums(path: Path) -> Sums:
    """Add up what a file really holds."""
    arrow = _arrow()
    rows, totals, times = 0, dict.fromkeys(("request_tokens", "response_tokens", "cached_tokens"), 0), set[datetime]()
    with arrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["created_at", *totals]):
            rows += batch.num_rows
            for name in totals:  # added up in Python: a sum of bigints may not fit one
                totals[name] += sum(batch.column(name).to_pylist())
            times.update(batch.column("created_at").to_pylist())
            times = {min(times), max(times)}
    first, last = (min(times), max(times)) if times else (None, None)
    return Sums(rows, **totals, first_event_at=first, last_event_at=last)


def sha256(path: Path) -> str:
    """Return the checksum of a file's bytes, as they are on the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
