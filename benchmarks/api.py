"""A process of the API on a database of its own, and gateways that ask it over kept connections: what benchmarks of routes share."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from benchmarks.traffic import database
from deploy.local import ports
from deploy.local.stack import Stack
from services.accounts.api_keys.keys import hash_of, new_key, prefix_of
from services.cli.supervisor import Supervisor, WorkerSpec
from shared.ids import uuid7
from shared.kafka import create_topics

_CPU = "process_cpu_seconds_total "
_BUCKET = re.compile(
    r'^tallystick_api_request_seconds_bucket\{le="(?P<le>[^"]+)",route="(?P<route>[^"]+)"\} (?P<count>\S+)$',
    re.MULTILINE,
)


class Answered(NamedTuple):
    """An answer."""

    status: int
    content: Any


@dataclass(slots=True)
class Gateway:
    """One kept connection, on which one request follows the other."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: str

    async def ask(self, method: str, path: str, body: Any = None) -> Answered:
        """Send a request and return the answer."""
        content = b"" if body is None else json.dumps(body).encode()
        self.writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        said = await self.reader.readexactly(int(length.partition(b":")[2]))
        return Answered(int(head[9:12]), json.loads(said) if said else None)


@dataclass(frozen=True, slots=True)
class Api:
    """A running process."""

    port: int
    probes: str
    key: str
    connection: asyncpg.Connection

    async def gateway(self) -> Gateway:
        """Return a new connection of a gateway."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Gateway(reader, writer, self.key)

    def within(self, route: str) -> dict[float, int]:
        """Return how many requests of a route the server has answered within so many seconds, by its own clock."""
        found = _BUCKET.finditer(self._metrics())
        return {float(m["le"]): int(float(m["count"])) for m in found if m["route"] == route}

    def cpu_seconds(self) -> float:
        """Return how long the process has computed: what other work on the machine disturbs less than the clock."""
        return float(next(line.split()[1] for line in self._metrics().splitlines() if line.startswith(_CPU)))

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"{self.probes}/metrics", timeout=30) as answer:  # noqa: S310 – http, to ourselves
            return str(answer.read().decode())


@asynccontextmanager
async def running_api(stack: Stack) -> AsyncIterator[Api]:
    """Run a process of the API, without limits of rates, and make a gateway's key."""
    async with database(stack.database_url) as (url, connection):
        prefix, port, probes = f"bench-{uuid7().hex[:8]}.", ports.choose(), ports.choose()
        await create_topics(stack.kafka_bootstrap_servers, partitions=4, prefix=prefix)
        environ = {
            **os.environ, "DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
            "TALLYSTICK_KAFKA_TOPIC_PREFIX": prefix, "TALLYSTICK_API_PORT": str(port), "TALLYSTICK_LOG_LEVEL": "warning",
            "TALLYSTICK_API_GATEWAY_REQUESTS_PER_SECOND": "0",
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as logs:
            spec = WorkerSpec("services.api", 0, probes)
            async with Supervisor([spec], environ, logs=Path(logs), tell=lambda line: print(line, file=sys.stderr)) as supervisor:  # fmt: skip
                await supervisor.wait_until_ready(60)
                yield Api(port, f"http://127.0.0.1:{probes}", await _key(connection), connection)


async def make_subscriptions(connection: asyncpg.Connection, count: int) -> list[UUID]:
    """Make subscriptions with large quotas, and return their ids."""
    await connection.execute(
        """INSERT INTO users (id, username, email)
           SELECT md5('user ' || n)::uuid, 'user ' || n, 'user' || n || '@example.com' FROM generate_series(1, $1::int) n""",
        count,
    )
    await connection.execute(
        "INSERT INTO plans (id, name, amount, currency, interval) VALUES ('many', 'Many', 0, 'USD', 'month')"
    )
    rows = await connection.fetch(
        """INSERT INTO subscriptions (id, user_id, plan_id, status, currency, quota_requests, quota_tokens)
           SELECT id, id, 'many', 'active', 'USD', 1e9, 1e15 FROM users WHERE email LIKE 'user%' RETURNING id"""
    )
    await connection.execute("VACUUM ANALYZE")
    return [row["id"] for row in rows]


async def _key(connection: asyncpg.Connection) -> str:
    """Make a gateway: a user with the role service, and a key."""
    user, subscription, key = uuid7(), uuid7(), new_key()
    await connection.execute(
        "INSERT INTO users (id, username, email, roles) VALUES ($1, 'gateway', 'gateway@example.com', '{user,service}')", user
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO subscriptions (id, user_id, plan_id, status) VALUES ($1, $2, 'free', 'active')", subscription, user
    )
    await connection.execute(
        "INSERT INTO api_keys (id, subscription_id, user_id, key_hash, key_prefix) VALUES ($1, $2, $3, $4, $5)",
        uuid7(), subscription, user, hash_of(key, ""), prefix_of(key),
    )  # fmt: skip
    return key
