"""What the suite measures of the hot path and of the pipeline, each on a database and topics of its own."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Any

from benchmarks.hardware import Used, cpu_seconds
from benchmarks.peers import TRIGGER, row_inserts
from benchmarks.running import drain, drain_naively, make_customers, place, workers
from benchmarks.sizes import Size
from benchmarks.stages import NO_RECORD
from benchmarks.traffic import BATCH, Traffic, database, traffic
from deploy.local.stack import Stack
from services.ingest.acceptance import Limits, accept
from services.ingest.attribution import Owner
from services.ingest.identities import copy_packed
from services.ingest.packing import COLUMNS as PACKED_COLUMNS
from services.ingest.packing import Candidate, pack
from services.ingest.rows import COLUMNS
from shared.contracts import UsageEvent
from shared.ids import event_key, uuid7


@dataclass
class Bench:
    """One run of the suite."""

    stack: Stack
    size: Size
    owners: list[str]
    sent: Traffic

    async def raw_copy(self, source: str) -> dict[str, Any]:
        """COPY of ready rows in batches of 10,000: `records` as asyncpg encodes them, `packed` as bytes that are there already."""
        rows, packed = self.sent.rows, _packed(self.sent) if source == "packed" else []
        async with database(self.stack.database_url) as (_, connection):
            await connection.execute(
                "SELECT ensure_usage_partition(now()), ensure_usage_partition(now() - interval '1 hour')"
            )
            await connection.execute("CHECKPOINT")
            before, started, own = await Used.now(connection, self.stack, []), time.perf_counter(), time.process_time()
            for number, first in enumerate(range(0, len(rows), BATCH)):
                async with connection.transaction():
                    if source == "packed":
                        await copy_packed(connection, "usage_logs", packed[number], PACKED_COLUMNS)
                    else:
                        await connection.copy_records_to_table(
                            "usage_logs", records=rows[first : first + BATCH], columns=COLUMNS
                        )
            seconds, own = time.perf_counter() - started, time.process_time() - own
            used = (await Used.now(connection, self.stack, [])).since(before, len(rows))
            assert await connection.fetchval("SELECT count(*) FROM usage_logs") == len(rows)
        return {
            "events_per_second": round(len(rows) / seconds),
            **used,
            "worker_us": round(own / len(rows) * 1e6, 2),
        }

    async def ours(self, count: int = 1, **variables: str) -> dict[str, Any]:
        """Ingest workers, from the broker to committed rows and sums."""
        async with place(self.stack, self.owners, self.sent) as where:
            return (await drain(where, self.sent, count, variables=variables)).figures()

    async def naive(self) -> dict[str, Any]:
        """The straightforward FastStream worker."""
        records = self.sent.records[: self.size.naive_events]
        some = Traffic(records, self.sent.rows[: len({value for _, value in records})])
        async with place(self.stack, self.owners, some) as where:
            await where.connection.execute(TRIGGER)
            return (await drain_naively(where, some)).figures()

    async def seed(self) -> dict[str, Any]:
        """Row inserts with the seeds' triggers."""
        async with place(self.stack, self.owners) as where:
            await where.connection.execute(TRIGGER)
            return {
                "events_per_second": round(await row_inserts(where.connection, self.sent.rows[: self.size.seed_rows]))
            }

    async def pipeline(self) -> dict[str, Any]:
        """All three workers, until every effect is there: rows, summaries, rated and settled usage, published messages."""
        sent = traffic(self.size.pipeline_events, self.owners, seed=2)
        async with place(self.stack, self.owners, sent) as where:
            await make_customers(where.connection, self.owners)
            with workers(where, ["services.ingest", "services.aggregator", "services.billing"]) as pids:
                while not await where.connection.fetchval("SELECT coalesce(sum(next_offset), 0) FROM ingest_positions"):
                    await asyncio.sleep(0.01)
                before, started = await Used.now(where.connection, self.stack, pids), time.perf_counter()
                await where.caught_up()
                seconds = time.perf_counter() - started
                used = (await Used.now(where.connection, self.stack, pids)).since(before, len(sent.records))
            return {
                "events_per_second": round(len(sent.records) / seconds),
                **used,
                "debits": await where.debits(),
                "checks": await where.reconciled(),
            }

    async def alone(self) -> dict[str, Any]:
        """The aggregator and billing, each alone, on what ingest has announced."""
        figures: dict[str, Any] = {}
        async with place(self.stack, self.owners, self.sent) as where:
            await make_customers(where.connection, self.owners)
            await drain(where, self.sent)
            events = len(self.sent.rows)
            for service, done in (
                (
                    "aggregator",
                    "SELECT coalesce(sum(request_count), 0) FROM usage_summaries WHERE period_type = 'hour'",
                ),
                ("billing", "SELECT coalesce(sum(event_count), 0) FROM billing_inbox"),
            ):
                with workers(where, [f"services.{service}"]) as pids:
                    while not await where.connection.fetchval(f"SELECT EXISTS (SELECT FROM {service}_positions)"):  # noqa: S608
                        await asyncio.sleep(0.005)
                    started, cpu = time.perf_counter(), sum(map(cpu_seconds, pids))
                    while await where.connection.fetchval(done) < events:
                        await asyncio.sleep(0.005)
                    figures[service] = {
                        "events_per_second": round(events / (time.perf_counter() - started)),
                        "worker_us": round((sum(map(cpu_seconds, pids)) - cpu) / events * 1e6, 2),
                    }
            with workers(where, ["services.ingest", "services.aggregator", "services.billing"]):
                await where.caught_up()
            figures["checks"] = await where.reconciled()
        return figures


def _packed(sent: Traffic) -> list[bytes]:
    """Return the rows of what is sent as COPY takes them, in batches."""
    limits, batch_id, owners = Limits(), uuid7(), dict[str, Owner]()
    window, seen, candidates = limits.window(max(row.created_at for row in sent.rows)), set[bytes](), list[Candidate]()
    for _, value in sent.records:
        event = accept(value, (), limits, *window)
        assert isinstance(event, UsageEvent)
        key, subject = event_key(event.source, event.id), str(event.subject)
        if key not in seen:
            seen.add(key)
            owner = owners.get(subject) or owners.setdefault(subject, Owner(uuid.UUID(subject), None))
            candidates.append(Candidate(NO_RECORD, key, event, owner))
    return [pack(candidates[at : at + BATCH], batch_id, 1).rows for at in range(0, len(candidates), BATCH)]
