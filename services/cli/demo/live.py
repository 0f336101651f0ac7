"""Traffic that goes on: what gateways send at this moment, and what they ask the API, so that there is something to look at."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from time import time
from typing import Final
from uuid import UUID

from deploy.local import ports
from services.accounts.api_keys.desk import Wish, create_key
from services.accounts.settings import AccountSettings
from services.cli.demo.events import Events
from services.cli.demo.publish import Publisher
from services.cli.demo.record import Record
from services.cli.demo.traffic import World
from services.cli.demo.world import read_world
from services.cli.run import API_PORT_VARIABLE
from services.cli.supervisor import WorkerSpec
from shared.contracts import USAGE_EVENTS
from shared.errors import ServiceUnavailable
from shared.kafka_security import librdkafka_security
from shared.postgres import Pool, transaction
from shared.settings import KafkaSettings, load
from shared.worker import PipelineSettings

RATE: Final = 50.0
"""Events a second."""
ASK_SECONDS: Final = 1.0
"""Between two requests to the API."""


@dataclass(frozen=True, slots=True)
class Live:
    """Gateways that are at work. `api` is the address of the HTTP API."""

    kafka: KafkaSettings
    world: World
    api: str
    key: str

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send and ask for as long as the block runs."""
        ending = threading.Event()
        sending = asyncio.create_task(asyncio.to_thread(self._send, ending))
        asking = asyncio.create_task(self._ask())
        try:
            yield
        finally:
            asking.cancel()
            ending.set()
            await sending

    def _send(self, ending: threading.Event) -> None:
        """Publish until it is time to end. A broker that is away is asked again: somebody tries what happens then."""
        topic, security = self.kafka.kafka_topic_prefix + USAGE_EVENTS, librdkafka_security(self.kafka)
        while not ending.is_set():
            publisher = Publisher(self.kafka.kafka_bootstrap_servers, topic, rate=RATE, security=security)
            with contextlib.suppress(ServiceUnavailable):
                publisher.publish(takewhile(lambda _: not ending.is_set(), self._records()))

    def _records(self) -> Iterator[Record]:
        rng = random.Random()
        events = Events(rng, f"live-{time():.0f}", self.world.models, self.world.libraries)
        while True:
            yield events.draw(rng.choice(self.world.subscribers), time()).record

    async def _ask(self) -> None:
        subscription = self.world.subscribers[0].subscription_id
        while True:
            for path in ("usage", f"entitlements/{subscription}"):
                await asyncio.to_thread(self._get, path)
            await asyncio.sleep(ASK_SECONDS)

    def _get(self, path: str) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(f"{self.api}/api/v1/{path}", headers=headers)  # noqa: S310 (our own address)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            answer.read()


def api_worker() -> WorkerSpec:
    """Return a process of the API to run, on free ports."""
    return WorkerSpec(
        "services.api", 0, ports.choose(), {API_PORT_VARIABLE: str(ports.choose()), "TALLYSTICK_CONSOLE_LINKS": "true"}
    )


async def gateways(settings: PipelineSettings, pool: Pool, api: WorkerSpec) -> Live:
    """Return gateways of the subscriptions that there are, with an API key that is made for them."""
    world = await read_world(settings.database_url)
    pepper = load(AccountSettings).api_key_pepper.get_secret_value()
    wish = Wish(UUID(world.subscribers[0].subscription_id), "demo", requests_per_minute=None, requests_per_day=None)
    async with transaction(pool) as connection:
        _, key = await create_key(connection, wish, pepper=pepper, now=datetime.now(UTC))
    return Live(settings, world, f"http://{ports.HOST}:{api.variables[API_PORT_VARIABLE]}", key)
