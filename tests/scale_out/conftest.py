"""A coordinator and two servers that hold shards, with the Citus of the PostgreSQL that TALLYSTICK_POSTGRES_BIN names."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from deploy.local.directory import StackDirectory
from deploy.local.errors import LocalStackError
from deploy.local.postgres import Postgres
from deploy.local.postgres_programs import find_programs
from deploy.local.server import Options

PASSWORD = "shared-by-all"
SETTINGS = {
    "shared_preload_libraries": "citus",
    "citus.node_conninfo": "sslmode=disable",
    "max_prepared_transactions": "100",
    "shared_buffers": "64MB",
    "synchronous_commit": "on",
}
"""A server that is killed loses what it had not written: no commit may be reported before, on any of them."""


@dataclass
class Node:
    """One server; it keeps its port when it is killed and started again."""

    server: Postgres
    place_on_disk: StackDirectory
    url: str

    @property
    def place(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    async def kill(self) -> None:
        process = self.server._process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def revive(self) -> None:
        """Start it again; what it left behind may need a moment to be gone."""
        async with asyncio.timeout(60):
            while True:
                try:
                    await self.server.start(lambda _: None)
                except LocalStackError:
                    await asyncio.sleep(0.5)
                else:
                    return


@pytest.fixture(scope="session", autouse=True)
def _citus() -> None:
    """Fail at once, with what to do, where Citus is not to be had."""
    programs = find_programs(os.environ)
    share = subprocess.run([programs / "pg_config", "--sharedir"], capture_output=True, text=True, check=True)
    if not Path(share.stdout.strip(), "extension", "citus.control").exists():
        pytest.fail(
            f"the PostgreSQL in {programs} has no Citus: let TALLYSTICK_POSTGRES_BIN name one that has, see docs/how-to/scale.md",
            pytrace=False,
        )


@pytest_asyncio.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    """The coordinator first. Each has the extension and lets the others in."""
    made = []
    for _ in range(3):
        place = StackDirectory(Path(tempfile.mkdtemp(prefix="tallystick-node-")))  # where another account may pass
        place.create()
        options = Options(place.path, ("postgres",), durable=False, postgres_settings=SETTINGS)
        server = Postgres(place, options, os.environ)
        server.prepare(lambda _: None)
        made.append(Node(server, place, await _with_citus((await server.start(lambda _: None)).address, place)))
    yield made
    for node in made:
        await node.server.stop(gracefully=False)
        node.place_on_disk.purge()


async def _with_citus(url: str, place: StackDirectory) -> str:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"ALTER ROLE tallystick PASSWORD '{PASSWORD}'")
        await connection.execute("CREATE EXTENSION citus")
        await connection.execute(
            f"INSERT INTO pg_dist_authinfo VALUES (0, 'tallystick', 'password={PASSWORD}')"  # noqa: S608
        )
    finally:
        await connection.close()
    place.remember(postgres_password=PASSWORD)  # for the next start
    parts = urlsplit(url)
    return parts._replace(netloc=f"tallystick:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
