"""A Kafka and a Postgres of the harness's own, to be killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

from deploy.local.directory import StackDirectory
from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from deploy.local.server import Options, Say
from shared.errors import ServiceUnavailable, TallystickError

_ATTEMPTS: Final = 20
_SAFE_ENOUGH: Final = {"synchronous_commit": "on"}
"""Without fsync a killed server loses nothing as long as the machine stays up, but only what was written: no commit may be reported before."""


class Servers:
    """Both servers, as children of this process. Addresses stay the same over restarts."""

    def __init__(self, directory: Path) -> None:
        place = StackDirectory(directory)
        place.create()
        options = Options(directory, ("postgres", "kafka"), durable=False, postgres_settings=_SAFE_ENOUGH)
        self._place = place
        self.kafka = Kafka(place, options, os.environ)
        self.postgres = Postgres(place, options, os.environ)
        self.database_url = self.bootstrap_servers = ""

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

    async def stop(self) -> None:
        """End both and throw their data away."""
        await asyncio.gather(self.kafka.stop(gracefully=False), self.postgres.stop(gracefully=False))
        self._place.purge()


def _silent(_: str) -> None:
    return
