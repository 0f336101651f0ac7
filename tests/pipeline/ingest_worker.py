"""One ingest worker as a process of its own, and what is sent to it byte by byte."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from deploy.local import ports
from services.cli.supervisor import ask
from shared.contracts import USAGE_DEAD_LETTER, USAGE_EVENTS, USAGE_RECORDED, UsageRecorded, decode_recorded
from shared.postgres import Pool
from tests.kafka_records import Header, add_record, batch_builder

READY_SECONDS: Final = 40
STORED: Final = "SELECT coalesce(sum(next_offset), 0)::bigint FROM ingest_positions"
ACCOUNT: Final = """
    SELECT partition, start_offset, next_offset, inserted, duplicates, quarantined, held, gaps FROM ingest_positions ORDER BY 1
"""


@dataclass(slots=True)
class Worker:
    """`python -m services.ingest`, started and not stopped yet."""

    process: asyncio.subprocess.Process
    port: int
    output: Path

    async def ready(self) -> None:
        """Return when it is ready to serve."""
        async with asyncio.timeout(READY_SECONDS):
            while (answer := await ask(self.port, "/readyz"))[0] != 200:
                assert self.process.returncode is None, self.said()
                await asyncio.sleep(0.05)
        assert answer[1] == "ok\n"

    async def kill(self) -> None:
        """End it as a crash would."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int | None:
        """Ask it to stop; return its exit code."""
        self.process.terminate()
        async with asyncio.timeout(30):
            return await self.process.wait()

    def said(self) -> str:
        """All that it wrote."""
        return self.output.read_text()


@dataclass(slots=True)
class Site:
    """A migrated database and topics of a test's own, and the workers that it started."""

    environ: Mapping[str, str]
    pool: Pool
    bootstrap: str
    prefix: str
    directory: Path
    workers: list[Worker] = field(default_factory=list)

    async def start(self, instance: int = 0, **settings: str) -> Worker:
        """Start a worker. Its output goes to a file, so that no pipe fills up."""
        port, output = ports.choose(), self.directory / f"worker-{len(self.workers)}.log"
        environ = {
            **self.environ, "TALLYSTICK_INSTANCE": str(instance), "TALLYSTICK_HTTP_PORT": str(port),
            "TALLYSTICK_INGEST_BATCH_RECORDS": "500", **settings,
        }  # fmt: skip
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.ingest", env=environ, stdout=file, stderr=file
            )
        worker = Worker(process, port, output)
        self.workers.append(worker)
        return worker

    @asynccontextmanager
    async def producer(self, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
        """A producer as a gateway would use it."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, **options)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    @property
    def topic(self) -> str:
        """The topic of usage events."""
        return self.prefix + USAGE_EVENTS

    async def send(
        self, values: Sequence[bytes | None], *, partition: int = 0, headers: Sequence[Header] = (), **options: Any
    ) -> None:
        """Send records to a partition, acknowledged; their headers may have any bytes for a name."""
        async with self.producer(**options) as producer:
            sent = [
                await producer.send(self.topic, value, partition=partition, key=b"k", headers=_decoded(headers))
                for value in values
            ]
            await asyncio.gather(*sent)

    async def send_raw(self, records: Sequence[tuple[bytes, Sequence[Header]]], *, partition: int = 0) -> None:
        """Send one batch of records whose header names are any bytes, which no client library would send."""
        builder = batch_builder()
        for offset, (value, headers) in enumerate(records):
            add_record(builder, offset, value, headers, key=b"k")
        async with self.producer() as producer:
            batch = producer.create_batch()
            batch._builder, batch._relative_offset = builder, len(records)
            await (await producer.send_batch(batch, self.topic, partition=partition))

    async def stored(self, next_offset: int, *, seconds: float = 60) -> None:
        """Return when the positions of all partitions sum to `next_offset`."""
        async with asyncio.timeout(seconds):
            while await self.pool.fetchval(STORED) < next_offset:
                assert any(worker.process.returncode is None for worker in self.workers), "nobody works"
                await asyncio.sleep(0.05)

    async def account(self) -> dict[str, int]:
        """The account of all partitions, without zeros; each adds up."""
        total: dict[str, int] = {}
        for row in await self.pool.fetch(ACCOUNT):
            counts = {name: row[name] for name in ("inserted", "duplicates", "quarantined", "held", "gaps")}
            assert sum(counts.values()) == row["next_offset"] - row["start_offset"]
            total = {name: total.get(name, 0) + count for name, count in counts.items()}
        return {name: count for name, count in total.items() if count}

    async def read(self, topic: str, partitions: int) -> list[ConsumerRecord[bytes, bytes]]:
        """Everything that is in a topic by now."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            tps = [TopicPartition(self.prefix + topic, n) for n in range(partitions)]
            consumer.assign(tps)
            found: list[ConsumerRecord[bytes, bytes]] = []
            ends = await consumer.end_offsets(tps)
            for tp in tps:
                while await consumer.position(tp) < ends[tp]:
                    for records in (await consumer.getmany(tp, timeout_ms=1_000)).values():
                        found += records
            return found
        finally:
            await consumer.stop()

    async def announced(self, partitions: int) -> list[UsageRecorded]:
        """What was announced, once each however often it was published."""
        messages = [decode_recorded(r.value or b"") for r in await self.read(USAGE_RECORDED, partitions)]
        return list({(message.batch_id, message.part): message for message in messages}.values())

    async def letters(self) -> list[ConsumerRecord[bytes, bytes]]:
        """The dead letters."""
        return await self.read(USAGE_DEAD_LETTER, 1)


def _decoded(headers: Sequence[Header]) -> list[tuple[str, bytes | None]]:
    return [(name.decode(), content) for name, content in headers]
