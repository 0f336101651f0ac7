"""Whatever dies or sleeps, and however endpoints behave: every delivery is made at least once, its row is there once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from services.billing.notices.delivering import GRACE, PER_ENDPOINT
from services.billing.notices.retrying import Policy
from tests.integration.webhook_facts import TIMEOUT, Office, an_office, verify
from tests.webhook_receiver import Answer, Received, receiving

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def office(ingest_database: str) -> AsyncIterator[Office]:
    """Webhooks on a database that is used by one test after the other."""
    async with an_office(ingest_database) as office:
        yield office


WORKER = """
import asyncio, sys, json
from datetime import timedelta
from services.billing.notices.delivering import WebhookDelivery
from services.billing.notices.retrying import Policy
from services.billing.notices.sending import Sender
from services.billing.notices.signing import Keyring
from shared.clock import FixedClock
from shared.outbox import Outbox
from shared.postgres import create_pool
from datetime import datetime

async def main():
    url, key, at = json.loads(sys.stdin.read())
    pool = await create_pool(url, role="tallystick_billing")
    seconds = timedelta(seconds=60)
    clock = FixedClock(datetime.fromisoformat(at))
    sender = Sender(timeout=seconds, allow_private=True)
    await WebhookDelivery(pool, clock, Outbox("billing_outbox"), sender, Keyring(key), Policy(), seconds)()

asyncio.run(main())
"""


async def test_what_a_killed_worker_had_on_its_way_is_made_by_another_with_the_same_id(
    office: Office, ingest_database: str
) -> None:
    async with receiving("hang") as receiver:
        _, secret = await office.add(receiver.url)
        event = await office.announce()
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, cwd=ROOT, stdin=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )  # fmt: skip
        assert worker.stdin is not None
        worker.stdin.write(json.dumps([ingest_database, office.key, office.clock.now().isoformat()]).encode())
        worker.stdin.close()
        await receiver.arrived(1)
        worker.send_signal(signal.SIGKILL)
        assert await worker.wait() == -signal.SIGKILL

        survivor = office.worker()
        await survivor()
        assert len(receiver.received) == 1, "its time is not over: nobody else takes it"
        assert await office.outcomes() == [None]
        office.clock.at += timedelta(seconds=60) + GRACE
        await survivor()
    assert receiver.ids == [event] * 2
    assert [(line.status, line.attempts) for line in await office.log()] == [("delivered", 2)]
    assert await office.outcomes() == [None, "delivered"]
    verify(secret, receiver.received[1])


async def test_a_worker_that_slept_through_its_time_undoes_nothing(office: Office) -> None:
    async with receiving("hang", 200) as receiver:
        await office.add(receiver.url)
        await office.announce()
        # With one place only it cannot take up its own delivery again.
        sleeper = asyncio.create_task(office.worker(timeout=timedelta(seconds=30), concurrency=1)())
        await receiver.arrived(1)
        office.clock.at += timedelta(seconds=30) + GRACE
        await office.worker()()
        assert [line.status for line in await office.log()] == ["delivered"]
        receiver.let_go.set()  # the sleeper's connection ends without an answer: it has failed
        await sleeper
    assert [(line.status, line.attempts) for line in await office.log()] == [("delivered", 2)]
    assert Counter(await office.outcomes()) == {"unreachable": 1, "delivered": 1}


async def test_a_worker_that_is_stopped_ends_what_it_can_and_leaves_the_rest_to_others(office: Office) -> None:
    async with receiving("hang") as receiver:
        await office.add(receiver.url)
        await office.announce()
        lane = asyncio.create_task(office.worker(patience=timedelta(0))())
        await receiver.arrived(1)
        lane.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lane
        assert await office.outcomes() == [None]
        office.clock.at += TIMEOUT + GRACE
        receiver.answers = ["hang"]
        lane = asyncio.create_task(office.worker(timeout=timedelta(seconds=30), patience=timedelta(seconds=30))())
        await receiver.arrived(2)
        lane.cancel()
        receiver.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await lane
    assert [(line.status, line.attempts) for line in await office.log()] == [("pending", 2)]
    assert await office.outcomes() == [None, "unreachable"], "it was let end, and recorded"


@pytest.mark.parametrize("seed", range(3))
async def test_several_workers_and_endpoints_that_come_and_go(office: Office, seed: int) -> None:
    dice = random.Random(seed)

    def flapping(_request: Received) -> Answer:
        return dice.choice((200, 200, 500, "close", "garbage", 429))

    async with receiving(otherwise=flapping) as first, receiving(otherwise=flapping) as second, receiving() as third:
        endpoints = {(await office.add(r.url))[0]: r for r in (first, second, third)}
        events = {await office.announce() for _ in range(25)}
        patient = Policy(attempts=100, disable_after=timedelta(days=1000))
        workers = [office.worker(policy=patient, concurrency=6, patience=timedelta(0)) for _ in range(3)]
        for _ in range(40):
            lanes = [asyncio.create_task(worker()) for worker in workers]
            if dice.random() < 0.4:
                await asyncio.sleep(0)
                dice.choice(lanes).cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            office.clock.at += timedelta(hours=12)
            if not await office.log(status="pending"):
                break

    log = await office.log()
    assert {(line.endpoint_id, line.message_id) for line in log} == {
        (id_, event) for id_ in endpoints for event in events
    }
    assert len(log) == len(endpoints) * len(events), "each row once"
    assert {line.status for line in log} == {"delivered"}
    for receiver in endpoints.values():
        assert set(receiver.ids) == events, "at least once"
        assert receiver.most_at_once <= 3 * (2 * PER_ENDPOINT - 1)
    counted = await office.pool.fetchval("SELECT count(*) FROM webhook_attempts")
    assert counted == sum(line.attempts for line in log)
