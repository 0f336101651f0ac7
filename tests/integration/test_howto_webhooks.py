"""docs/how-to/receive-webhooks.md, as it is written: its receiver takes what we send, and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpcore
import pytest_asyncio

from services.billing.notices import endpoints
from services.billing.notices.signing import new_secret
from tests.integration.webhook_facts import Office, an_office

_HOUR = timedelta(hours=1)
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "receive-webhooks.md"


@pytest_asyncio.fixture
async def office(ingest_database: str) -> AsyncIterator[Office]:
    """Webhooks on a database that is used by one test after the other."""
    async with an_office(ingest_database) as office:
        yield office


@asynccontextmanager
async def receiver(directory: Path, secret: str, port: int) -> AsyncIterator[asyncio.StreamReader]:
    """Run the page's receiver; yields what it prints."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    file = directory / "receiver.py"
    file.write_text(program)
    environment = {**os.environ, "WEBHOOK_SECRET": secret, "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(file), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _answers(port)
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def _answers(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)  # there is no other sign of a program that has begun to listen
            else:
                writer.close()
                return


async def test_the_receiver_of_the_page_takes_our_events_and_refuses_others(office: Office, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint, secret = await office.add(f"http://127.0.0.1:{port}/")
    event = await office.announce()
    async with receiver(tmp_path, secret, port) as printed:
        await office.worker()()
        assert (await printed.readline()).decode().split() == [event, "tallystick.invoice.issued.v1"]
        async with office.billing.acquire() as connection:
            await endpoints.rotate_secret(connection, office.keys, endpoint, at=office.clock.now(), overlap=_HOUR)
        await office.announce()
        await office.worker()()
        assert [line.status for line in await office.log()] == ["delivered"] * 2, "the old secret still counts"

        forged = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA", "content-length": "2"}
        async with httpcore.AsyncConnectionPool() as client:
            answer = await client.request(
                "POST", f"http://127.0.0.1:{port}/", headers=list(forged.items()), content=b"{}"
            )
        assert answer.status == 401

    async with receiver(tmp_path, new_secret(), port):
        await office.announce()
        await office.worker()()
    assert [line.response_status for line in await office.log()] == [204, 204, 401]
