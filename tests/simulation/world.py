"""The simulated world: workers that run the real consumer and the real ingest, and everything that can happen to them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaConnectionError

from services.ingest.acceptance import Limits
from services.ingest.attribution import Owner
from services.ingest.compiled import load, make_sweeper
from services.ingest.handlers import IngestBatch
from services.ingest.log import UsageLog
from shared.consumer import ExactlyOnceConsumer
from shared.fetching import watch_fetches
from shared.outbox import Outbox
from shared.positions import Positions
from tests.compiled import COMPILED
from tests.simulation.broker import FakeConsumer, Log
from tests.simulation.database import Database, FakePool
from tests.simulation.loop import Gate, Gates, SimulatedLoop
from tests.simulation.model import Fact, Model, Violation

TOPIC: Final = "usage.events"
PARTITIONS: Final = 3
WORKERS: Final = 3
QUIET_STEPS: Final = 4_000
"""Steps within which everything must be through once nothing is disturbed any more."""
_NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
_SUBSCRIPTION: Final = UUID("019a2f6e-0000-7000-8000-000000000001")
_OWNER: Final = Owner(_SUBSCRIPTION, None)


class _Clock:
    def now(self) -> datetime:
        return _NOW


class _Attributor:
    """Everybody is known."""

    def known(self, _event: Any) -> Owner:
        return _OWNER

    known_as = known


class _Publishing:
    """Publishing is another story: what is enqueued is in the outbox."""

    async def publish(self, _messages: Any) -> None:
        return


class _Metrics:
    """Nobody reads them."""

    def assigned(self, *_: Any) -> None: ...

    def progressed(self, *_: Any) -> None: ...

    def applied(self, _seconds: float) -> None: ...

    def redelivered(self, _error: str) -> None: ...


@dataclass(slots=True)
class _Subscriber:
    consumer: FakeConsumer


@dataclass(eq=False)
class Worker:
    """One process: it is alive until it is killed, and may be stopped for a while. `assigned` is what it believes to own."""

    number: int
    world: World
    alive: bool = True
    stopped: bool = False
    assigned: tuple[TopicPartition, ...] = ()
    joining: tuple[TopicPartition, ...] | None = None
    rejoining: asyncio.Task[None] | None = None
    tasks: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        world = self.world
        pool: Any = FakePool(world.database, self)
        attributor: Any = _Attributor()
        sweeper, recent = make_sweeper(load(COMPILED), Limits(), attributor.known_as, 4)
        self.kafka = FakeConsumer(self, world.gates, world.logs)
        self.ingest = IngestBatch(
            cluster="main",
            limits=Limits(),
            clock=_Clock(),
            log=UsageLog(pool, recent),
            recent=recent,
            attributor=attributor,
            outbox=Outbox("ingest_outbox"),
            publishing=_Publishing(),  # type: ignore[arg-type]
            sweeper=sweeper,
        )
        self.consumer = ExactlyOnceConsumer(
            pool=pool,
            positions=Positions("ingest_positions", cluster="main"),
            apply=self.ingest,
            metrics=_Metrics(),  # type: ignore[arg-type]
        )
        self.consumer.bind(_Subscriber(self.kafka))
        watch_fetches(
            self.kafka, self.consumer._fetch_failed
        )  # no call of getmany lasts from before the first assignment

    async def run(self) -> None:
        """What FastStream does: fetch, hand over, again. It logs an error and goes on."""
        while True:
            try:
                records = await self.kafka.getmany()
            except KafkaConnectionError:
                continue
            await self.consumer.consume(records)

    async def join(self, tps: tuple[TopicPartition, ...]) -> None:
        """What aiokafka does at a rebalance; fetching begins before the listener is called."""
        await self.consumer.on_partitions_revoked(self.assigned)
        self.assigned = tps
        self.kafka.assign(tps)
        await self.world.gates.wait(self, "assigned")
        await self.consumer.on_partitions_assigned(tps)


class World:
    """A cluster and its workers. Every method is one step; `check` holds after each of them."""

    def __init__(self, seed: int) -> None:
        random.seed(seed)  # the backoff of the code under test
        self.loop = SimulatedLoop()
        self.gates = Gates(self.loop)
        self.tps = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        self.logs = {tp: Log() for tp in self.tps}
        self.database = Database(self.gates)
        self.model = Model({tp.partition: log for tp, log in self.logs.items()})
        self.workers: list[Worker] = []
        self.members: dict[TopicPartition, Worker] = {}
        self.cut: set[int] = set()
        self.steps = 0
        self._sent: dict[int, list[tuple[str, int, bytes]]] = {number: [] for number in range(PARTITIONS)}
        self._started = 0
        self.database.remember()

    # --- traffic ------------------------------------------------------------------------------------------------------

    def produce(self, partition: int, kind: int) -> None:
        """Append a record: 0–4 a new event, 5 a resend, 6 a conflict, 7 garbage, 8 a marker, which is an offset without a record,
        9 a resend with another time."""
        if partition in self.cut:
            return
        log, sent = self.logs[self.tps[partition]], self._sent[partition]
        if kind == 8:
            log.end += 1
            return
        value, fact = b"{", Fact(None)
        if kind in (5, 6, 9) and sent:
            event, tokens, value = sent[-1 - (len(sent) * (kind + log.end) % 7) % len(sent)]
            fact = Fact(event, tokens + (kind == 6), 30 - (kind == 9))
            if kind != 5:
                value = _event(fact)
        elif kind != 7:
            fact = Fact(f"{partition}-{len(sent)}", len(sent) % 5 + 1)
            value = _event(fact)
            sent.append((fact.event or "", fact.tokens, value))
        log.records.append(ConsumerRecord(TOPIC, partition, log.end, 0, 0, None, value, None, 0, len(value), ()))
        self.model.facts[partition, log.end] = fact
        log.end += 1

    # --- what runs ----------------------------------------------------------------------------------------------------

    def open(self, choice: int, failure: int = 0) -> None:
        """Answer one of the calls that wait: well, or (`failure` 1 and 2) with an error. If none does, time passes."""
        gates = [g for g in self.gates.waiting if not g.owner.stopped and (g.may_open is None or g.may_open())]
        if gates:
            gate = gates[choice % len(gates)]
            self.gates.open(gate, _error(gate, failure))
        else:
            self.loop.pass_time()

    def pass_time(self) -> None:
        """Let the next timer fire."""
        self.loop.pass_time()

    def rejoin(self, choice: int) -> None:
        """A member hears of the rebalance."""
        waiting = [w for w in self.workers if w.joining is not None and not w.stopped]
        waiting = [w for w in waiting if w.rejoining is None or w.rejoining.done()]
        if waiting:
            worker = waiting[choice % len(waiting)]
            coroutine, worker.joining = worker.join(worker.joining or ()), None
            worker.rejoining = self.loop.start(coroutine, worker.tasks)

    # --- faults -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A worker starts, if there is room."""
        if len(self.workers) < WORKERS:
            worker = Worker(self._started, self)
            self._started += 1
            self.workers.append(worker)
            self.loop.start(worker.run(), worker.tasks)

    def kill(self, choice: int) -> None:
        """SIGKILL: whatever it was at is gone; a COMMIT on its way may have arrived."""
        if not self.workers:
            return
        worker = self.workers.pop(choice % len(self.workers))
        worker.alive = False
        for gate in [g for g in self.gates.waiting if g.owner is worker]:
            if gate.what == "commit" and choice & 1:
                self.gates.open(gate, asyncpg.ConnectionDoesNotExistError("killed"))
        for session in [s for s in self.database.sessions if s._owner is worker]:
            session.lose()
        while worker.tasks:
            for task in list(worker.tasks):
                task.cancel()
            self.loop.settle()
        self.members = {tp: owner for tp, owner in self.members.items() if owner is not worker}

    def stop_or_continue(self, choice: int) -> None:
        """SIGSTOP or SIGCONT: a zombie does not hear that its partitions went to somebody else."""
        if self.workers:
            worker = self.workers[choice % len(self.workers)]
            worker.stopped = not worker.stopped

    def rebalance(self, choice: int) -> None:
        """The coordinator deals the partitions out anew, among those that it believes alive; each member hears of it later."""
        rng = random.Random(choice)
        believed = [w for w in self.workers if not w.stopped or rng.random() < 0.3]
        if believed:
            self.members = {tp: rng.choice(believed) for tp in self.tps}
            for worker in self.workers:
                worker.joining = tuple(tp for tp in self.tps if self.members.get(tp) is worker)

    def lose_sessions(self) -> None:
        """Every database session is terminated."""
        for session in list(self.database.sessions):
            session.lose()

    def fail_over(self) -> None:
        """The database goes on from a replica that lacks the last commits."""
        self.database.fail_over()

    def replicate(self) -> None:
        """A replica is up to date for a moment."""
        self.database.remember()

    def forget_committed(self, partition: int) -> None:
        """Kafka's own offsets are lost, or somebody has set them to the end."""
        log = self.logs[self.tps[partition]]
        log.committed = log.end if log.end & 1 else None

    def retain(self, partition: int, share: float) -> None:
        """Retention deletes old records, perhaps some that were not read."""
        log = self.logs[self.tps[partition]]
        log.beginning = max(log.beginning, int(log.end * share))

    def recreate(self, partition: int) -> None:
        """The topic is deleted and made again, empty: nothing that it holds may pass for what was stored."""
        log = self.logs[self.tps[partition]]
        log.beginning = log.end = 0
        log.committed = None
        self.cut.add(partition)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `Violation` unless the effects are what the log holds below the positions, and no callback failed."""
        self.steps += 1
        if self.database.changed:
            self.model.check(self.database)
        if self.loop.errors:
            raise Violation("callback", f"a callback failed: {self.loop.errors[0]}")

    def come_to_rest(self) -> None:
        """Disturb nothing any more: everything must be applied, or its partition halted for a reason."""
        self.start()
        for worker in self.workers:
            worker.stopped = False
        self.rebalance(0)
        rng = random.Random(0)
        for _ in range(QUIET_STEPS):
            self.rejoin(0)
            self.open(rng.randrange(1 << 20))
            self.check()
            if not self._busy():
                if not (late := self._behind()):
                    return
                if not self.loop.pass_time():
                    raise Violation("rest", f"at rest, but not through: {late}")
        raise Violation("rest", f"not at rest after {QUIET_STEPS} steps: {self._behind()}")

    def _busy(self) -> bool:
        joining = any(worker.joining is not None for worker in self.workers)
        return joining or any(gate.may_open is None or gate.may_open() for gate in self.gates.waiting)

    def _behind(self) -> list[str]:
        """Say which partitions are neither read to their end nor halted."""
        behind = []
        for tp, log in self.logs.items():
            account, owner = self.database.content.accounts.get(tp.partition), self.members.get(tp)
            position = account.next if account else 0
            markers = not log.held(position, 1)
            sound = log.beginning <= position <= log.end
            state = owner.consumer._partitions.get(tp) if owner else None
            if state is None or not (state.halted if not sound else state.synced and markers):
                behind.append(f"{tp.partition} at {position} of {log.beginning}–{log.end}: {state}")
        return behind

    def close(self) -> None:
        """End what still waits, so that nothing of this world is left."""
        while self.workers:
            self.kill(0)
        self.loop.close()


def _event(fact: Fact) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": fact.event,
            "source": "/simulated",
            "type": "tallystick.usage.v1",
            "time": f"2026-11-21T11:59:{fact.second}Z",
            "subject": str(_SUBSCRIPTION),
            "data": {"model": "gpt-4o", "request_tokens": fact.tokens, "response_tokens": 1},
        }
    ).encode()


def _error(gate: Gate, failure: int) -> Any:
    """Return how a call fails: on Kafka's side, or on the database's; a COMMIT may have happened in spite of it."""
    if not failure or gate.what == "assigned":
        return None
    if gate.what in ("fetch", "beginning_offsets", "end_offsets", "kafka_commit"):
        return KafkaConnectionError("simulated")
    if gate.what == "commit" and failure == 2:
        return asyncpg.ConnectionDoesNotExistError("simulated: the answer was lost")
    return asyncpg.DeadlockDetectedError("simulated")


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


@contextmanager
def silence() -> Iterator[None]:
    """Log nothing: a simulation would tell of thousands of faults."""
    before = structlog.get_config()
    structlog.configure(
        processors=[_drop], wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
