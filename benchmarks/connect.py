"""A peer: Apache Kafka Connect with Debezium's JDBC sink, in upsert mode, into the same table with the same indexes.

It is tuned as far as it goes: two tasks, batches of 1,000 that are one `unnest` each, a reduction buffer, plain JSON with the schema in the
converter instead of in every record, a JVM with the memory of Kafka's own start script that has drained the same backlog twice before. It is spared
what it cannot do: what it reads are finished rows, identities and owners in them, as flat JSON with the table's columns. It checks, sums up
and announces nothing. `python -m benchmarks.connect` resolves its jars afresh and writes the lock.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from benchmarks.running import Place, place, until_drained
from benchmarks.traffic import PARTITIONS, Traffic
from deploy.local import jars
from deploy.local.java import find_java
from deploy.local.ports import choose
from deploy.local.stack import Stack
from services.ingest.rows import UsageRow

COORDINATES = (
    "org.apache.kafka:connect-runtime:4.3.1",
    "org.apache.kafka:connect-json:4.3.1",
    "org.slf4j:slf4j-simple:1.7.36",
)
SINK = jars.Jar("io.debezium", "debezium-connector-jdbc", "3.6.0.Final", "", "plugin", "tar.gz")
"""Comes as an archive of jars: the plain artifact does not resolve."""
LOCK = Path(__file__).with_name("connect.lock.toml")
TASKS = 2
BATCH = 1_000
PATIENCE_SECONDS = 90.0
FIRST_SEEN = 10_000
"""Rows that are counted at most to know where it was at the first look."""
_JVM = ("-server", "-Xms256m", "-Xmx2g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35")  # fmt: skip
_KINDS: dict[str, dict[str, Any]] = {
    "created_at": {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "version": 1},
    "metadata": {"type": "string", "name": "io.debezium.data.Json", "version": 1},
    "request_tokens": {"type": "int64"}, "response_tokens": {"type": "int64"}, "cached_tokens": {"type": "int64"}, "tokens_returned": {"type": "int64"},
    "latency_ms": {"type": "int32"}, "status_code": {"type": "int16"}, "byok": {"type": "boolean"},
}  # fmt: skip
_KEY = ("created_at", "id", "subscription_id")
_UUIDS = ("id", "subscription_id", "api_key_id", "batch_id")
_UUID: dict[str, Any] = {"type": "string", "name": "io.debezium.data.Uuid", "version": 1}


@dataclass
class Connect:
    """A running Connect worker, and where it takes orders."""

    stack: Stack
    pid: int
    url: str
    log: Path
    admin: AdminClient

    async def drain(self, owners: Sequence[str], sent: Traffic) -> dict[str, Any]:
        """Let it drain what is sent, and prove that each row is there once."""
        backlog = backlog_of(sent)
        async with place(self.stack, owners) as where:
            name = f"sink-{uuid.uuid4().hex[:8]}"
            await self._ask("POST", "/connectors", {"name": name, "config": _sink(where, sent)})
            try:
                await self._until(lambda: self._assigned(name), "both tasks have partitions")
                await self._ask("PUT", f"/connectors/{name}/pause")
                await self._until(lambda: self._is(name, "PAUSED"), "it pauses")
                _publish(where, backlog)
                await self._ask("PUT", f"/connectors/{name}/resume")
                result = await until_drained(where, len(sent.records), [self.pid], _how_far(backlog, sent))
            finally:
                await self._ask("DELETE", f"/connectors/{name}")
            found = tuple(await where.connection.fetchrow("SELECT count(*), sum(request_tokens) FROM usage_logs"))
            assert found == (len(sent.rows), sum(row.request_tokens for row in sent.rows)), found
        return result.figures()

    async def _assigned(self, name: str) -> bool:
        """Whether the tasks share out all partitions: they join one after the other, and what is measured begins after that."""
        if not await self._is(name, "RUNNING"):
            return False
        group = f"connect-{name}"
        try:
            found = await asyncio.to_thread(self.admin.describe_consumer_groups([group])[group].result)
        except KafkaException:  # nobody has joined yet
            return False
        parts = [len(member.assignment.topic_partitions) for member in found.members if member.assignment]
        return len(parts) == TASKS and all(parts) and sum(parts) == PARTITIONS

    async def _is(self, name: str, state: str) -> bool:
        status = await self._ask("GET", f"/connectors/{name}/status")
        for task in status["tasks"]:
            assert task["state"] != "FAILED", task["trace"][:2_000]
        return len(status["tasks"]) == TASKS and all(task["state"] == state for task in status["tasks"])

    async def _until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"Kafka Connect: waited in vain until {what}; its log is {self.log}")
            await asyncio.sleep(0.1)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        def ask() -> Any:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)  # noqa: S310 – http, to ourselves
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")

        return await asyncio.to_thread(ask)


@contextmanager
def running_connect(stack: Stack, say: Callable[[str], None]) -> Iterator[Connect]:
    """Run a Connect worker for as long as the block runs. Its jars are fetched once."""
    cache = jars.cache_directory(os.environ)
    *classes, archive = jars.ensure_jars(jars.locked_jars(LOCK), cache, lambda line: say(f"Kafka Connect: {line}"))
    plugins = _unpacked(archive, cache)
    with tempfile.TemporaryDirectory(prefix="tallystick-connect-") as directory:
        home, port = Path(directory), choose()
        settings = {
            "bootstrap.servers": stack.kafka_bootstrap_servers,
            "listeners": f"http://127.0.0.1:{port}",
            "offset.storage.file.filename": str(home / "offsets"),
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "plugin.path": str(plugins),
            "plugin.discovery": "service_load",
            "consumer.max.poll.records": str(BATCH),
        }
        worker, log = home / "worker.properties", home / "connect.log"
        worker.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
        command = [
            str(find_java(os.environ).launcher), *_JVM, "-XX:-UsePerfData", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp",
            os.pathsep.join(map(str, classes)), "org.apache.kafka.connect.cli.ConnectStandalone", str(worker),
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap_servers})
            connect = Connect(stack, process.pid, f"http://127.0.0.1:{port}", log, admin)
            _wait_until_ready(connect, process)
            yield connect
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(connect: Connect, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            urllib.request.urlopen(connect.url, timeout=5).close()  # noqa: S310 – http, to ourselves
            return
        except (OSError, urllib.error.URLError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Kafka Connect did not start: {connect.log.read_text()[-2_000:]}") from None
            time.sleep(0.2)


def _unpacked(archive: Path, cache: Path) -> Path:
    """Return the folder with the jars of an archive, unpacked once beside the cache's other files."""
    folder = cache / "plugins" / archive.name.removesuffix(".tar.gz")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as aside:
            with tarfile.open(archive) as files:
                files.extractall(aside, filter="data")
            Path(aside, "done").mkdir()
            for entry in Path(aside).iterdir():
                if entry.name != "done":
                    entry.rename(Path(aside, "done", entry.name))
            Path(aside, "done").rename(folder)
    return folder


def backlog_of(sent: Traffic) -> list[tuple[int, bytes, UsageRow]]:
    """Return the same events as finished rows: partition, flat JSON, and the row that must come of it. Duplicates are in it as they are sent."""
    rows, backlog, last = iter(sent.rows), list[tuple[int, bytes, UsageRow]](), b""
    for key, value in sent.records:
        if value != last:
            row, last = next(rows), value
            flat = msgspec.json.encode(
                {name: cell for name, cell in zip(row._fields, row, strict=True) if cell is not None}
            )
        backlog.append((zlib.crc32(key) % PARTITIONS, flat, row))
    return backlog


def _publish(where: Place, backlog: Sequence[tuple[int, bytes, UsageRow]]) -> None:
    producer = Producer({"bootstrap.servers": where.stack.kafka_bootstrap_servers, "acks": "all", "linger.ms": 20, "queue.buffering.max.messages": 200_000})  # fmt: skip
    for partition, value, _ in backlog:
        while True:
            try:
                producer.produce(where.topic, value, partition=partition)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    assert producer.flush(60) == 0


def _how_far(backlog: Sequence[tuple[int, bytes, UsageRow]], sent: Traffic) -> str:
    """Return SQL that says how far it is, for little: all of it where the last row of each partition is there, else a few rows."""
    last = {partition: row for partition, _, row in backlog}
    keys = ", ".join(f"('{row.created_at.isoformat()}'::timestamptz, '{row.id}'::uuid)" for row in last.values())
    return (
        f"SELECT CASE WHEN (SELECT count(*) FROM usage_logs WHERE (created_at, id) IN ({keys})) = {len(last)} THEN {len(sent.records)} "  # noqa: S608
        f"ELSE (SELECT count(*) FROM (SELECT FROM usage_logs LIMIT {FIRST_SEEN}) seen) END"
    )


def _sink(where: Place, sent: Traffic) -> dict[str, str]:
    """Return the configuration of the sink."""
    url = urlsplit(where.url)
    used = [name for place, name in enumerate(UsageRow._fields) if any(row[place] is not None for row in sent.rows)]
    fields = [
        {"field": name, "optional": name not in _KEY, **(_UUID if name in _UUIDS else _KINDS.get(name, {"type": "string"}))}
        for name in used
    ]  # fmt: skip
    return {
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": str(TASKS),
        "topics": where.topic,
        "collection.name.format": "usage_logs",
        "connection.url": f"jdbc:postgresql://{url.hostname}:{url.port}{url.path}?reWriteBatchedInserts=true",
        "connection.username": url.username or "",
        "connection.password": url.password or "",
        "insert.mode": "upsert",
        "primary.key.mode": "record_value",
        "primary.key.fields": ",".join(_KEY),
        "schema.evolution": "none",
        "batch.size": str(BATCH),
        "use.reduction.buffer": "true",
        "dialect.postgres.unnest.insert.enabled": "true",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "true",
        "value.converter.schema.content": json.dumps({"type": "struct", "fields": fields}),
    }


def main() -> None:
    """Write the lock."""
    LOCK.write_text(jars.resolve_lock(COORDINATES, [SINK], "benchmarks.connect"), encoding="utf-8")


if __name__ == "__main__":
    main()
