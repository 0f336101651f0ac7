"""Faults that halt a partition until a person decides; the harness is that person, and does what the how-to pages say."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError

from services.cli.chaos import faults
from services.cli.chaos.faults import Fault
from services.cli.chaos.inject.processes import SESSION_SECONDS
from services.cli.chaos.stage import POLL_SECONDS, SQL, Stage
from shared.contracts import USAGE_EVENTS
from shared.errors import ServiceUnavailable

PARTITIONS: Final = 4
LOST: Final = 25
SURVIVORS: Final = 5
NOTICED_SECONDS: Final = 60.0
_DAY: Final = 86_400


async def overrun(stage: Stage, fault: Fault) -> None:
    """Delete records that ingest has not read, as retention does with a worker that is too slow; then accept the loss."""
    await stage.sender.pause()
    await stage.drained()
    await stage.workers.hold(stage.ingest_workers)
    partition, time = fault.number % PARTITIONS, stage.world.now.timestamp() - _DAY
    places = await stage.sender.send([stage.probes.announced_loss(time) for _ in range(LOST)], partition)
    stage.probes.books.lose(LOST)
    await stage.sender.send([stage.probes.event(time) for _ in range(SURVIVORS)], partition)
    beginning = max(offset for _, offset in places) + 1
    async with _Admin(stage) as admin:
        await admin.delete_records({TopicPartition(USAGE_EVENTS, partition): RecordsToDelete(before_offset=beginning)})
    stage.workers.let_go(stage.ingest_workers)
    await _halted(stage, faults.RETENTION, f"retention deleted {LOST} records")
    position = await stage.execute(SQL["position"], USAGE_EVENTS, partition)
    await stage.execute(SQL["accept_loss"], USAGE_EVENTS, partition, position, beginning)
    await _restart(stage, 0.0)
    stage.sender.resume()


async def recreate(stage: Stage, _fault: Fault) -> None:
    """Delete the topic and make it anew; then begin a new epoch."""
    await stage.sender.pause()
    await stage.drained()
    async with _Admin(stage) as admin:
        await admin.delete_topics([USAGE_EVENTS])
        await _made(admin)
    await stage.sender.renew()
    for partition in range(PARTITIONS):
        await stage.sender.send([stage.probes.event(stage.world.now.timestamp() - _DAY)], partition)
    await _halted(stage, faults.TOPIC, "the topic was recreated")
    await stage.workers.hold(stage.ingest_workers)
    await stage.execute(SQL["begin_epoch"], USAGE_EVENTS)
    await _restart(stage, SESSION_SECONDS + 1)
    stage.sender.resume()


async def _made(admin: AIOKafkaAdminClient) -> None:
    deadline = monotonic() + NOTICED_SECONDS
    while True:
        try:
            answer = await admin.create_topics([NewTopic(USAGE_EVENTS, PARTITIONS, 1)])
            if all(code == 0 for _, code, *_ in answer.topic_errors):
                return
        except KafkaError:
            pass
        if monotonic() > deadline:
            raise ServiceUnavailable(f"Kafka does not make {USAGE_EVENTS} anew")
        await asyncio.sleep(POLL_SECONDS)


async def _halted(stage: Stage, kind: str, reason: str) -> None:
    """Wait until readiness gives the reason; a problem if it does not."""
    begun = monotonic()
    while monotonic() - begun < NOTICED_SECONDS:
        said = await stage.not_ready(stage.ingest_workers)
        if any(reason in text for text in said.values()):
            stage.told_seconds.setdefault(kind, []).append(monotonic() - begun)
            return
        await asyncio.sleep(POLL_SECONDS)
    stage.problems.append(f"{kind}: no worker said within {NOTICED_SECONDS:.0f} s that {reason}")


async def _restart(stage: Stage, after: float) -> None:
    """Start ingest anew; `after` seconds without it Kafka has forgotten its members."""
    await stage.workers.hold(stage.ingest_workers)
    await asyncio.sleep(after)
    stage.workers.let_go(stage.ingest_workers)


class _Admin:
    """A client for the broker's administration."""

    def __init__(self, stage: Stage) -> None:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=stage.servers.bootstrap_servers)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        await self._admin.start()
        return self._admin

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()
