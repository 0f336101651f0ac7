"""A thousand calls while the broker and the proxy are killed: each call that was answered is billed, and each once."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from deploy.migrate import migrate
from services.cli.chaos.servers import Servers
from shared.contracts import USAGE_EVENTS
from shared.kafka import create_topics
from shared.postgres import create_pool
from tallystick.client import Client
from tests.integration.aggregator_facts import make_subscription
from tests.litellm.conftest import MakeProxy, Proxy
from tests.pipeline.ingest_worker import Site

CALLS: Final = 1000
CLIENTS: Final = 24
PARTITIONS: Final = 3
NEXT_ANSWER_WITHIN_SECONDS: Final = 70.0  # a call gives up after 60


class Clients:
    """Ask until a thousand calls are answered. A call that breaks off is asked again, as another call."""

    def __init__(self, proxy: Proxy) -> None:
        self.answered: set[str] = set()
        self.broken_off: set[str] = set()
        self._proxy = proxy
        self._tickets = itertools.count()
        self._changed = threading.Condition()
        self._outcomes: deque[str] = deque(maxlen=5)
        self._gone = False
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def until_answered(self, calls: int) -> None:
        """Return when so many are."""
        with self._changed:
            while (before := len(self.answered)) < calls:
                goes_on = self._changed.wait_for(lambda: len(self.answered) > before, NEXT_ANSWER_WITHIN_SECONDS)
                assert goes_on, (
                    f"{before} of {calls} are answered, {len(self.broken_off)} broke off, and no more come; {self._proxy.state()}; "
                    f"the last answers: {list(self._outcomes)}"
                )

    def done(self) -> None:
        """Return when all are."""
        self.until_answered(CALLS)

    def leave(self) -> None:
        """Ask no more: the test is over, however it went."""
        self._gone = True

    def _ask(self, number: int) -> None:
        drawn = random.Random(number)
        while next(self._tickets) < CALLS:
            while not self._gone and not self._is_answered(stream=drawn.random() < 0.5):
                pass

    def _is_answered(self, *, stream: bool) -> bool:
        call_id = str(uuid.uuid4())
        body: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        try:
            answer = self._proxy.ask("POST", "/v1/chat/completions", body, **{"x-litellm-call-id": call_id})
            answered = answer.status == 200 and answer.complete
            outcome = f"{answer.status} {answer.body[-300:]!r}"
        except OSError as error:
            answered, outcome = False, repr(error)
        with self._changed:
            self._outcomes.append(outcome)
            (self.answered if answered else self.broken_off).add(call_id)
            if not answered:
                self._changed.wait(0.2)  # the proxy is away
            self._changed.notify_all()
        return answered


@pytest.fixture
def ask() -> Iterator[Callable[[Proxy], Clients]]:
    """Begin to ask a proxy. The clients end with the test, also where it fails: the process would wait for them for ever."""
    begun: list[Clients] = []

    def begin(proxy: Proxy) -> Clients:
        begun.append(Clients(proxy))
        return begun[-1]

    yield begin
    for clients in begun:
        clients.leave()


@pytest_asyncio.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """A Kafka and a Postgres that may be killed."""
    servers = Servers(tmp_path / "servers")
    try:
        await servers.start(lambda _: None)
        yield servers
    finally:
        await servers.stop()


@pytest_asyncio.fixture
async def site(servers: Servers, tmp_path: Path) -> AsyncIterator[Site]:
    """A pipeline of which only ingest runs."""
    await migrate(servers.database_url)
    await create_topics(servers.bootstrap_servers, partitions=PARTITIONS)
    pool = await create_pool(servers.database_url, application_name="tests")
    addresses = {"DATABASE_URL": servers.database_url, "KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers}
    environ = {**os.environ, **addresses, "PYTHONPATH": str(Path.cwd())}
    site = Site(environ, pool, servers.bootstrap_servers, "", tmp_path)
    try:
        yield site
    finally:
        await asyncio.gather(*(worker.kill() for worker in site.workers))
        await pool.close()


@pytest.mark.timeout(900)  # a busy machine answers a few calls a second
async def test_a_call_that_was_answered_is_billed_once(
    servers: Servers, site: Site, make_proxy: MakeProxy, ask: Callable[[Proxy], Clients], tmp_path: Path
) -> None:
    subscription = str(await make_subscription(site.pool))
    await site.start()
    settings = {"KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers, "TALLYSTICK_LITELLM_SUBSCRIPTION": subscription}
    proxy = await asyncio.to_thread(lambda: make_proxy(**settings))
    clients = ask(proxy)

    await asyncio.to_thread(clients.until_answered, 200)
    await servers.kill(servers.kafka)
    await asyncio.to_thread(clients.until_answered, 450)  # nobody notices: what is used waits in the spool
    await asyncio.to_thread(proxy.kill)
    await asyncio.to_thread(proxy.start)
    await asyncio.to_thread(clients.until_answered, 600)
    await servers.revive(servers.kafka)
    await asyncio.to_thread(clients.until_answered, 800)
    await asyncio.to_thread(proxy.kill)
    await asyncio.to_thread(proxy.start)
    await asyncio.to_thread(clients.done)
    await asyncio.to_thread(proxy.stop)
    await asyncio.to_thread(_deliver_the_rest, servers.bootstrap_servers, tmp_path / "spool")
    await site.stored(await _published(site))

    account = await site.account()
    assert set(account) <= {"inserted", "duplicates"}, account
    rows = await site.pool.fetch(
        "SELECT metadata->>'litellm_call_id' AS call_id, count(*) AS rows FROM usage_logs GROUP BY 1"
    )
    billed = {row["call_id"]: row["rows"] for row in rows}
    assert set(billed.values()) == {1}
    assert len(clients.answered) == CALLS
    assert clients.answered <= set(billed), "each call that was answered is billed"
    assert set(billed) - clients.answered <= clients.broken_off, (
        "a call that broke off may have been finished by its model"
    )
    assert len(set(billed) - clients.answered) <= 2 * CLIENTS, "as many as were under way at the two kills, at most"
    of_answered = await site.pool.fetchval(
        "SELECT count(*) FROM usage_logs WHERE metadata->>'litellm_call_id' = ANY($1)", list(clients.answered)
    )
    assert of_answered == CALLS


def _deliver_the_rest(bootstrap_servers: str, spool: Path) -> None:
    """Deliver what the last process may have left, as the next one would."""
    with Client.over_kafka(bootstrap_servers, source="/tests", spool=spool) as client:
        client.flush(60)
        assert client.delivery.rejected == 0


async def _published(site: Site) -> int:
    """How many records the topic has."""
    return len(await site.read(USAGE_EVENTS, PARTITIONS))
