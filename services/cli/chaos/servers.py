"""A Kafka and a Postgres of the harness's own, to be killed, stopped, filled up and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.local.directory import StackDirectory
from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from deploy.local.server import Options, Say
from services.cli.chaos.small_disk import SmallDisk
from shared.errors import ServiceUnavailable, TallystickError

_ATTEMPTS: Final = 40
_POSTGRES_SETTINGS: Final = {
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "1GB",
    "allow_in_place_tablespaces": "on",
    "client_connection_check_interval": "500ms",  # what a killed worker had asked for is not computed to its end
}
"""Without fsync a killed server loses nothing as long as the machine stays up, but only what was written: no commit may be reported before."""
_KAFKA_PROPERTIES: Final = {"message.max.bytes": str(16 * 2**20), "log.segment.bytes": str(32 * 2**20)}
"""Small segments: after a kill the broker reads again what it had not flushed."""


class Servers:
    """Both servers, as children of this process. Addresses stay the same over restarts."""

    def __init__(self, directory: Path) -> None:
        place = StackDirectory(directory)
        place.create()
        options = Options(
            directory,
            ("postgres", "kafka"),
            durable=False,
            postgres_settings=_POSTGRES_SETTINGS,
            kafka_properties=_KAFKA_PROPERTIES,
        )
        self._place = place
        self.kafka = Kafka(place, options, os.environ)
        self.postgres = Postgres(place, options, os.environ)
        self.small_disk = SmallDisk()
        self.database_url = self.bootstrap_servers = ""

    @property
    def postgres_log(self) -> Path:
        return self._place.postgres_log

    async def start(self, say: Say) -> None:
        """Start both. Raises `LocalStackError`."""
        for server in (self.kafka, self.postgres):
            await asyncio.to_thread(server.prepare, say)
        kafka, postgres = await asyncio.gather(self.kafka.start(_silent), self.postgres.start(_silent))
        self.bootstrap_servers, self.database_url = kafka.address, postgres.address

    async def kill(self, server: Kafka | Postgres) -> None:
        """SIGKILL: of Postgres' processes the first one, which the others do not survive."""
        process = server._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()

    async def revive(self, server: Kafka | Postgres) -> None:
        """Start a killed server again, where it was. The processes that it left behind may need a moment to be gone."""
        for attempt in range(_ATTEMPTS):
            try:
                address = (await server.start(_silent)).address
            except TallystickError:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(0.5)
            else:
                if address not in (self.bootstrap_servers, self.database_url):
                    raise ServiceUnavailable(
                        f"a port was taken while its server was dead: {address} is another address"
                    )
                return

    @contextmanager
    def postgres_stopped(self) -> Iterator[None]:
        """Stop all processes of Postgres while the block runs: who connects waits, who asks gets no answer."""
        process = self.postgres._process
        pids = [] if process is None else [process.pid, *_children(process.pid)]
        try:
            _signal(pids, signal.SIGSTOP)
            yield
        finally:
            _signal(reversed(pids), signal.SIGCONT)

    async def stop(self) -> None:
        """End both and throw their data away."""
        await asyncio.gather(self.kafka.stop(gracefully=False), self.postgres.stop(gracefully=False))
        self.small_disk.unmount()
        self._place.purge()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def _signal(pids: Iterator[int] | list[int], how: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            continue


def _silent(_: str) -> None:
    return
