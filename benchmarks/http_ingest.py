"""Events over HTTP beside the raw Kafka producer, with everything running: API, ingest, aggregator, billing, Kafka and Postgres.

    python -m benchmarks.http_ingest [--events 100000] [--rounds 3] [--batch 100] [--connections 16] [--json FILE]

The raw producer is the limit: librdkafka, acks=all, the same records, nothing judged and nobody asked who they are. The two alternate in
one run on one machine, so believe the ratio and not the rates. A rate is of acknowledged events, from the first sent to the last answered;
the workers read along meanwhile. Each round ends when ingest has stored all of it, and with a count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benchmarks.traffic import PARTITIONS, Traffic, database, insert_owners, publish, traffic
from deploy.local import ports
from deploy.local.stack import Stack, running_stack
from services.accounts.api_keys.keys import hash_of, new_key, prefix_of
from services.cli.supervisor import Supervisor, WorkerSpec
from shared.contracts import USAGE_EVENTS
from shared.kafka import create_topics

SUBSCRIPTIONS = 10_000
SERVICES = ("ingest", "aggregator", "billing", "api")
CLIENT = "client"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Site:
    """Where to send: a port of the API with a gateway's key, and the topic."""

    port: int
    key: str
    kafka: str
    topic: str


def requests(site: Site, sent: Traffic, batch: int) -> Iterator[bytes]:
    """Yield whole HTTP requests, made before the clock runs: a client that costs something would be measured, too."""
    for first in range(0, len(sent.records), batch):
        body = b"[" + b",".join(value for _, value in sent.records[first : first + batch]) + b"]"
        yield (
            b"POST /api/v1/events HTTP/1.1\r\nHost: api\r\nContent-Type: application/cloudevents-batch+json\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (site.key.encode(), len(body), body)
        )


async def over_http(site: Site, waiting: Sequence[bytes], connections: int) -> list[float]:
    """Send all requests over some connections, each one after its answer; return how long each took, in seconds."""
    ahead, took = iter(waiting), list[float]()

    async def client(requests: Iterable[bytes]) -> None:
        reader, writer = await asyncio.open_connection(HOST, site.port, limit=2**22)
        for request in requests:
            begun = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            answer = await reader.readexactly(length)
            assert b" 200 " in head[:20], head + answer
            assert b'"rejected":0' in answer, answer
            took.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client(ahead) for _ in range(connections)))
    return took


async def stored(connection: asyncpg.Connection, records: int) -> None:
    """Wait until ingest has taken up so many records."""
    deadline = time.perf_counter() + 300
    while await connection.fetchval("SELECT coalesce(sum(next_offset), 0) FROM ingest_positions") < records:
        assert time.perf_counter() < deadline, "ingest did not catch up within 300 s"
        await asyncio.sleep(0.1)


async def gateway_key(connection: asyncpg.Connection, owner: str) -> str:
    """Make the key of a gateway: it reports for everybody."""
    key = new_key()
    await connection.execute("UPDATE users SET roles = '{user,service}'")
    await connection.execute(
        "INSERT INTO api_keys (subscription_id, name, key_hash, key_prefix) VALUES ($1, 'benchmark', $2, $3)",
        uuid.UUID(owner), hash_of(key, ""), prefix_of(key),
    )  # fmt: skip
    return key


class Meter:
    """The CPU that each part has spent, in seconds: the client alone, others with their children."""

    def __init__(self, parts: Mapping[str, int | None]) -> None:
        self._parts = {name: psutil.Process(pid) for name, pid in parts.items() if pid}

    def read(self) -> dict[str, float]:
        """Return it by part. Children that have ended are in their parent's."""
        return {
            name: sum(part.cpu_times()[:2]) if name == CLIENT else sum(part.cpu_times()[:4]) + self._children(part)
            for name, part in self._parts.items()
        }

    def _children(self, part: psutil.Process) -> float:
        seconds = 0.0
        for child in part.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                seconds += sum(child.cpu_times()[:2])
        return seconds


async def send(site: Site, sent: Traffic, way: str, arguments: argparse.Namespace) -> tuple[float, list[float]]:
    """Send all of it; return events/s, and how long each request took, sorted."""
    prepared = list(requests(site, sent, arguments.batch)) if way == "http" else []
    begun, took = time.perf_counter(), list[float]()
    if way == "http":
        took = sorted(await over_http(site, prepared, arguments.connections))
    else:
        await asyncio.to_thread(publish, site.kafka, site.topic, sent)
    return len(sent.records) / (time.perf_counter() - begun), took


async def measure(arguments: argparse.Namespace, stack: Stack) -> dict[str, list[float]]:
    """Run all rounds against one set of workers; return events/s by way, of HTTP also times and the CPU of each part in µs an event."""
    owners = [str(uuid.uuid4()) for _ in range(SUBSCRIPTIONS)]
    prefix, port, kafka = f"bench-{uuid.uuid4().hex[:8]}.", ports.choose(), stack.kafka_bootstrap_servers
    await create_topics(kafka, partitions=PARTITIONS, prefix=prefix)
    found: dict[str, list[float]] = defaultdict(list)
    async with database(stack.database_url) as (url, connection):
        await insert_owners(connection, owners)
        site = Site(port, await gateway_key(connection, owners[0]), kafka, prefix + USAGE_EVENTS)
        environment = {**os.environ, "DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": kafka, "TALLYSTICK_KAFKA_TOPIC_PREFIX": prefix,
                       "TALLYSTICK_LOG_LEVEL": "warning", "TALLYSTICK_API_PORT": str(port)}  # fmt: skip
        specs = [WorkerSpec(f"services.{name}", 0, ports.choose()) for name in SERVICES]
        logs = Path(tempfile.mkdtemp(prefix="tallystick-bench-"))
        async with Supervisor(specs, environment, logs=logs, tell=lambda line: print(line, file=sys.stderr)) as workers:
            await workers.wait_until_ready(60)
            pids = {name: workers.pid(f"{name}-0") for name in SERVICES}
            meter = Meter({**pids, **{server.name: server.pid for server in stack.servers}, CLIENT: os.getpid()})
            records = events = 0
            for number, way in itertools.product(range(arguments.rounds + 1), ("kafka", "http")):
                sent = traffic(arguments.events, owners, seed=2 * number + (way == "http"))
                before = meter.read()
                rate, took = await send(site, sent, way, arguments)
                records, events = records + len(sent.records), events + len(sent.rows)
                await stored(connection, records)
                assert await connection.fetchval("SELECT count(*) FROM usage_logs") == events
                print(f"round {number}: {way} {rate:,.0f} events/s", file=sys.stderr)
                if number == 0:
                    continue  # it warms up
                found[way].append(rate)
                if took:
                    found["p50 ms"].append(1e3 * took[len(took) // 2])
                    found["p99 ms"].append(1e3 * took[int(len(took) * 0.99)])
                    for part, seconds in meter.read().items():
                        found[f"{part} µs"].append((seconds - before[part]) / len(sent.records) * 1e6)
    return found


def main() -> None:
    """Measure and print one line for each way, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="events of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=100, help="events of one request")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with running_stack() as running:
        found = asyncio.run(measure(arguments, running.stack))
    middle = {name: statistics.median(values) for name, values in found.items()}
    cpu = {name.removesuffix(" µs"): value for name, value in middle.items() if name.endswith(" µs")}
    print(f"raw Kafka producer: {middle['kafka']:>8,.0f} events/s")
    print(
        f"HTTP, {arguments.batch} a request: {middle['http']:>8,.0f} events/s, {middle['http'] / middle['kafka']:.0%} of it; "
        f"a request takes {middle['p50 ms']:.0f} ms, at p99 {middle['p99 ms']:.0f} ms, with {arguments.connections} at once"
    )
    print(
        f"µs of CPU an event: {', '.join(f'{name} {value:.0f}' for name, value in cpu.items())}; "
        f"{sum(cpu.values()):.0f} in all, from the request to the rated row"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"median": middle, "rounds": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
