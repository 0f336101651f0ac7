"""What a worker is compared with: the straightforward FastStream worker, and the row insert with triggers of the seeds.

Both keep the seeds' promise to have summaries up to date with each row, by the row trigger `update_usage_summary`. Neither
checks who used it, keeps what it cannot read, or knows a position. `python -m benchmarks.peers` is the worker, started by the suite.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from faststream import FastStream
from faststream.kafka import KafkaBroker
from pydantic import BaseModel, Field

import deploy
from services.ingest.rows import COLUMNS, UsageRow

_FUNCTION = re.search(
    r"CREATE OR REPLACE FUNCTION update_usage_summary\(\).*?^END \$\$;",
    (Path(deploy.__file__).parent / "migrations/0020_signed_usage.sql").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
assert _FUNCTION
TRIGGER = f"""
{_FUNCTION[0]}
ALTER TABLE usage_summaries DISABLE TRIGGER USER;
CREATE TRIGGER update_usage_on_log AFTER INSERT ON usage_logs FOR EACH ROW EXECUTE FUNCTION update_usage_summary();
"""
"""The seeds' trigger, as it was before it kept more than the seeds ask for: what a peer is not asked for, it need not do."""
INSERT = (
    f"INSERT INTO usage_logs ({', '.join(COLUMNS)}) VALUES ({', '.join(f'${n}' for n in range(1, len(COLUMNS) + 1))}) "  # noqa: S608
    "ON CONFLICT DO NOTHING"
)


class Data(BaseModel):
    """The data of an event, as a handler would declare it."""

    model: str
    provider: str
    request_tokens: int = Field(ge=0)
    response_tokens: int = Field(ge=0)
    cached_tokens: int = Field(0, ge=0)
    latency_ms: int | None = None
    status_code: int = 200
    error_message: str | None = None
    power_level: str = "balanced"
    byok: bool = False
    feature_type: str | None = None
    app_id: str | None = None
    session_id: str | None = None
    end_user: str | None = None
    metadata: dict[str, Any] | None = None


class Event(BaseModel):
    """A usage event, as a handler would declare it."""

    id: str
    source: str
    time: datetime
    subject: UUID
    data: Data


async def row_inserts(connection: asyncpg.Connection, rows: Sequence[UsageRow]) -> float:
    """Return events/s of the seeds' way: each row a statement and a transaction of its own, with its triggers."""
    statement = await connection.prepare(INSERT)
    started = time.perf_counter()
    for row in rows:
        await statement.fetch(*row)
    return len(rows) / (time.perf_counter() - started)


def naive_worker() -> None:
    """Run the straightforward worker: a typed batch handler that inserts with executemany, and acknowledges."""
    broker = KafkaBroker(os.environ["KAFKA_BOOTSTRAP_SERVERS"], logger=None)
    app = FastStream(broker, logger=None)
    pools: list[asyncpg.Pool] = []

    @app.on_startup
    async def connect() -> None:
        pools.append(await asyncpg.create_pool(os.environ["DATABASE_URL"]))

    @broker.subscriber(
        os.environ["BENCH_TOPIC"], batch=True, group_id="naive", auto_offset_reset="earliest", max_records=5_000
    )
    async def store(events: list[Event]) -> None:
        from shared.ids import event_id  # noqa: PLC0415

        rows = [
            (
                e.time, event_id(e.source, e.id), e.subject, None, UUID(int=0), e.data.model, None, e.data.provider, e.data.request_tokens,
                e.data.response_tokens, e.data.cached_tokens, None, e.data.latency_ms, e.data.status_code, e.data.error_message,
                e.data.power_level, e.data.byok, e.data.feature_type, None, None, e.data.app_id, e.data.session_id, e.data.end_user,
                e.source, e.id, None if e.data.metadata is None else json.dumps(e.data.metadata),
            )
            for e in events
        ]  # fmt: skip
        async with pools[0].acquire() as connection:
            await connection.executemany(INSERT, rows)

    asyncio.run(app.run())


if __name__ == "__main__":
    naive_worker()
