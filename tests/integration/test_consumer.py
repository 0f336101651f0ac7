"""Exactly-once consumption: the position decides, whatever the broker, the database or another worker does."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from time import time
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError
from prometheus_client import REGISTRY

import shared.consumer
from shared.consumer import ExactlyOnceConsumer
from shared.errors import BrokenInvariant
from shared.kafka import Subscription
from shared.postgres import Pool
from tests.integration.consumer_facts import (
    ONE,
    SEEN,
    TOPIC,
    ZERO,
    FakeBroker,
    Records,
    Storing,
    assign,
    consumer_of,
    end_all,
    eventually,
    positions,
    seen,
    settled,
)
from tests.unit.ingest.events import record


@pytest_asyncio.fixture
async def pool(ingest_pool: Pool) -> AsyncIterator[Pool]:
    await ingest_pool.execute(SEEN)
    yield ingest_pool
    await end_all()


BATCH_TIMEOUT_SECONDS = Subscription("", "", "", 1).batch_timeout_ms / 1_000
"""So long a fetch lasts at most while all partitions are paused."""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def problem(consumer: ExactlyOnceConsumer) -> str | None:
    """Why it is not ready, now."""
    return consumer.not_ready


def records(offsets: Iterable[int], *, partition: int = 0, age_seconds: float = 0.0) -> Records:
    """Records that have been at the broker for so long."""
    at = int((time() - age_seconds) * 1000)
    return [record(b"x", offset=offset, partition=partition, timestamp=at) for offset in offsets]


async def start_at(pool: Pool, tp: TopicPartition, offset: int) -> None:
    await pool.execute(
        "INSERT INTO ingest_positions (cluster, topic, partition, start_offset, next_offset) VALUES ('main', $1, $2, $3, $3)",
        tp.topic,
        tp.partition,
        offset,
    )


# --- assignment -------------------------------------------------------------------------------------------------------


async def test_partitions_are_paused_before_anything_awaits_and_run_from_their_positions(pool: Pool) -> None:
    await start_at(pool, ONE, 7)
    broker = FakeBroker(beginning={ZERO: 3}, assigned={ZERO, ONE})
    consumer = consumer_of(pool, broker, Storing())
    assigning = consumer.on_partitions_assigned([ZERO, ONE])
    with suppress(StopIteration):
        assigning.send(None)  # runs until it first awaits
    assert broker.asked == ["pause 0", "pause 1"]
    assert problem(consumer) == "usage.events[0] not synced; usage.events[1] not synced"

    await settled()

    assert [asked for asked in broker.asked if asked.endswith(("0", "to 3"))] == ["pause 0", "seek 0 to 3", "resume 0"]
    assert [asked for asked in broker.asked if "k 1" in asked or asked.endswith("e 1")] == [
        "pause 1",
        "seek 1 to 7",
        "resume 1",
    ]
    assert problem(consumer) is None
    assert await positions(pool) == {0: (3, 0, 0), 1: (7, 0, 0)}, (
        "a partition never read starts where the broker's log does"
    )


async def test_records_fetched_before_the_seek_are_ignored(pool: Pool) -> None:
    broker, apply = FakeBroker(away=KafkaConnectionError()), Storing()
    consumer = consumer_of(pool, broker, apply)
    broker.assigned.add(ZERO)
    await consumer.on_partitions_assigned([ZERO])

    await consumer.consume(records(range(5)))
    await consumer.settle()
    assert apply.slices == []

    broker.away = None
    await settled()
    await consumer.consume(records(range(5)))
    await consumer.settle()
    assert await positions(pool) == {0: (5, 5, 0)}


async def test_what_is_kept_of_a_slice_does_not_keep_the_fetch_that_it_came_in(pool: Pool) -> None:
    """FastStream hands records over in a context that holds all of the fetch; a partition keeps its last slice's task."""

    class Fetch:
        pass

    context = ContextVar[Fetch]("context")
    broker = FakeBroker()
    consumer = consumer_of(pool, broker, Storing())
    await assign(consumer, broker, ZERO)
    token = context.set(fetch := Fetch())
    gone = weakref.ref(fetch)

    await consumer.consume(records(range(3)))
    await consumer.settle()
    context.reset(token)
    del fetch, token
    gc.collect()

    assert await positions(pool) == {0: (3, 3, 0)}
    assert gone() is None


async def test_records_of_partitions_that_are_not_ours_are_ignored(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)

    await consumer.consume([*records(range(2)), *records(range(3), partition=1)])
    await consumer.settle()

    assert await seen(pool) == [(0, 0), (0, 1)]


async def test_while_the_broker_cannot_say_its_offsets_the_partition_stays_paused(pool: Pool) -> None:
    broker = FakeBroker(away=KafkaConnectionError("coordinator is moving"), assigned={ZERO})
    consumer = consumer_of(pool, broker, Storing())
    await consumer.on_partitions_assigned([ZERO])
    await eventually(lambda: consumer._partitions[ZERO].failures >= 2)

    assert broker.asked == ["pause 0"]
    assert problem(consumer) == "usage.events[0] not synced"

    broker.away = None
    await settled()
    assert broker.asked == ["pause 0", "seek 0 to 0", "resume 0"]


async def test_while_the_database_is_away_the_partition_stays_paused_and_then_goes_on(
    pool: Pool, ingest_database: str, postgres: str
) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)
    await consumer.consume(records(range(3)))
    await consumer.settle()
    name = urlsplit(ingest_database).path.removeprefix("/")
    admin = await asyncpg.connect(postgres)
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        broker.asked.clear()
        await consumer.consume(records(range(3, 6)))
        await consumer.settle()
        await eventually(lambda: consumer._partitions[ZERO].failures >= 3)
        assert broker.asked == ["pause 0"]
        assert problem(consumer) == "usage.events[0] not synced"
        await consumer.consume(records(range(6, 9)))  # a fetch that was on its way
        await consumer.settle()
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()
    await settled()

    assert broker.asked == ["pause 0", "seek 0 to 3", "resume 0"]
    await consumer.consume(records(range(3, 9)))
    await consumer.settle()
    assert await seen(pool) == [(0, offset) for offset in range(9)]


async def test_a_partition_revoked_while_it_syncs_is_left_alone(pool: Pool) -> None:
    broker, apply = FakeBroker(assigned={ZERO}), Storing()
    consumer = consumer_of(pool, broker, apply)
    await consumer.on_partitions_assigned([ZERO])
    await asyncio.sleep(0)
    broker.assigned.clear()
    await consumer.on_partitions_revoked([ZERO])
    await settled()

    assert broker.asked == ["pause 0"]
    assert problem(consumer) == "usage.events: not in its group yet"
    await consumer.consume(records(range(3)))
    await consumer.settle()
    assert apply.slices == []


# --- the place of a record --------------------------------------------------------------------------------------------


async def test_a_gap_is_believed_only_right_after_a_seek(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)
    await consumer.consume(records([0, 1, 4]))
    await consumer.settle()
    assert await positions(pool) == {0: (5, 3, 2)}, "inside a fetch the broker's order is trusted"

    broker.asked.clear()
    await consumer.consume(records([8, 9]))
    await consumer.settle()
    assert await positions(pool) == {0: (5, 3, 2)}, "nothing is stored that does not follow on"
    await settled()
    assert broker.asked == ["pause 0", "seek 0 to 5", "resume 0"]

    await consumer.consume(records([8, 9]))
    await consumer.settle()
    assert await positions(pool) == {0: (10, 5, 5)}, "the broker has nothing between: offsets 5, 6 and 7 hold no record"


async def test_what_is_stored_already_is_dropped(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)
    await consumer.consume(records(range(4)))
    await consumer.settle()

    await consumer.consume(records(range(2, 7)))
    await consumer.settle()

    assert await seen(pool) == [(0, offset) for offset in range(7)]
    assert apply.slices[-1].first_offset == 4


async def test_a_topic_cut_off_while_it_is_read_halts(pool: Pool) -> None:
    broker, apply = FakeBroker(end={ZERO: 50}), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)
    await consumer.consume(records(range(50)))
    await consumer.settle()
    broker.end[ZERO] = 10  # aiokafka starts anew at the beginning, by itself

    await consumer.consume(records(range(10)))
    await consumer.settle()
    await settled()

    assert consumer.not_ready is not None
    assert "ends at offset 10, but everything below 50 was stored already" in consumer.not_ready


async def test_a_topic_that_was_recreated_halts_and_is_not_ready(pool: Pool) -> None:
    await start_at(pool, ZERO, 500)
    broker, apply = FakeBroker(end={ZERO: 20}), Storing()
    consumer = consumer_of(pool, broker, apply)

    await assign(consumer, broker, ZERO, ONE)
    await consumer.consume([*records(range(20)), *records(range(3), partition=1)])
    await consumer.settle()

    assert "resume 0" not in broker.asked
    assert await seen(pool) == [(1, 0), (1, 1), (1, 2)], "its neighbour runs"
    assert consumer.not_ready is not None
    assert consumer.not_ready.startswith("usage.events[0] halted: usage.events[0] ends at offset 20")


async def test_retention_that_overran_the_position_halts(pool: Pool) -> None:
    await start_at(pool, ZERO, 5)
    broker = FakeBroker(beginning={ZERO: 9}, end={ZERO: 20})
    consumer = consumer_of(pool, broker, Storing())

    await assign(consumer, broker, ZERO)

    assert "retention deleted 4 records" in str(consumer.not_ready)
    assert broker.asked == ["pause 0"]


async def test_a_position_that_vanished_halts(pool: Pool) -> None:
    broker = FakeBroker()
    consumer = consumer_of(pool, broker, Storing())
    await assign(consumer, broker, ZERO)
    await pool.execute("DELETE FROM ingest_positions")

    await consumer.consume(records(range(3)))
    await consumer.settle()

    assert "vanished" in str(consumer.not_ready)
    assert await seen(pool) == []


async def test_a_fetch_that_failed_makes_every_partition_seek_again(pool: Pool) -> None:
    broker, apply = FakeBroker(fetch=KafkaError("corrupt batch in partition 1")), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO, ONE)
    broker.asked.clear()
    with suppress(KafkaError):
        await broker.getmany(timeout_ms=1)
    # aiokafka had drained offsets 0 to 4 of partition 0 already, and goes on behind them
    await consumer.consume(records(range(5, 9)))
    await consumer.settle()
    assert await seen(pool) == []
    await settled()

    assert sorted(broker.asked) == ["pause 0", "pause 1", "resume 0", "resume 1", "seek 0 to 0", "seek 1 to 0"]


async def test_a_fetch_that_began_unwatched_ends_before_a_partition_runs(pool: Pool) -> None:
    """The first call of getmany begins before there is an assignment, and so before fetches are watched: if it fails, nobody
    hears of the records that it took along. It ends with nothing only as long as all is paused."""
    ran: list[float] = []

    class Watched(FakeBroker):
        def resume(self, *tps: TopicPartition) -> None:
            ran.append(asyncio.get_running_loop().time())
            FakeBroker.resume(self, *tps)

    broker = Watched()
    consumer = consumer_of(pool, broker, Storing())
    longest = asyncio.get_running_loop().time() + BATCH_TIMEOUT_SECONDS
    await assign(consumer, broker, ZERO, ONE)

    assert len(ran) == 2
    assert min(ran) > longest, "a fetch of before may still be under way"


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_pauses_seeks_again_from_the_database_and_backs_off(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing(fails=[RuntimeError("no"), asyncpg.SerializationError("again")])
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)
    delays = []
    for _ in range(2):
        broker.asked.clear()
        before = asyncio.get_running_loop().time()
        await consumer.consume(records(range(5)))
        await consumer.settle()
        assert broker.asked == ["pause 0"]
        assert await seen(pool) == []
        await settled()
        delays.append(asyncio.get_running_loop().time() - before)
        assert broker.asked == ["pause 0", "seek 0 to 0", "resume 0"]

    await consumer.consume(records(range(5)))
    await consumer.settle()

    assert await seen(pool) == [(0, offset) for offset in range(5)]
    assert apply.after == [5]
    assert delays[0] >= 0.05
    assert delays[1] >= 0.1


async def test_a_broken_invariant_halts_that_partition_alone(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing(fails=[BrokenInvariant("sums differ")])
    consumer = consumer_of(pool, broker, apply, lanes=1)
    await assign(consumer, broker, ZERO, ONE)

    await consumer.consume([*records(range(5)), *records(range(5), partition=1)])
    await consumer.settle()
    await consumer.consume([*records(range(5)), *records(range(5, 6), partition=1)])
    await consumer.settle()

    assert problem(consumer) == "usage.events[0] halted: sums differ"
    assert await seen(pool) == [(1, offset) for offset in range(6)]


async def test_an_error_after_commit_does_no_harm(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing(fails_after=KafkaConnectionError())
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)

    await consumer.consume(records(range(5)))
    await consumer.settle()
    await consumer.consume(records(range(5, 7)))
    await consumer.settle()

    assert await positions(pool) == {0: (7, 7, 0)}
    assert apply.after == [5, 7]


async def test_a_batch_whose_partition_was_revoked_while_it_ran_is_still_announced(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing(may_commit=asyncio.Event())
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)
    consuming = asyncio.create_task(consumer.consume(records(range(5))))
    await apply.applying.wait()

    await consumer.on_partitions_revoked([ZERO])
    broker.assigned.clear()
    assert apply.may_commit is not None
    apply.may_commit.set()
    await consuming
    await consumer.settle()

    assert apply.after == [5]
    assert await positions(pool) == {0: (5, 5, 0)}
    assert broker.committed == [], "its new owner tells Kafka"


# --- two workers ------------------------------------------------------------------------------------------------------


async def test_a_zombie_and_its_successor_at_once_count_once(pool: Pool) -> None:
    zombie, successor = Storing("zombie", may_commit=asyncio.Event()), Storing("successor")
    brokers = FakeBroker(), FakeBroker()
    old, new = consumer_of(pool, brokers[0], zombie), consumer_of(pool, brokers[1], successor)
    await assign(old, brokers[0], ZERO)
    await assign(new, brokers[1], ZERO)
    stuck = asyncio.create_task(old.consume(records(range(5))))
    await zombie.applying.wait()
    taking_over = asyncio.create_task(new.consume(records(range(8))))
    while not await pool.fetchval(WAITING):
        pass
    assert successor.slices == [], "it waits for the row"

    assert zombie.may_commit is not None
    zombie.may_commit.set()
    await asyncio.gather(stuck, taking_over)
    await asyncio.gather(old.settle(), new.settle())

    rows = await pool.fetch("SELECT record_offset, by FROM seen ORDER BY 1")
    assert [tuple(row) for row in rows] == [(n, "zombie") for n in range(5)] + [(n, "successor") for n in range(5, 8)]
    assert await positions(pool) == {0: (8, 8, 0)}

    await old.consume(records(range(5, 9)))
    await old.settle()
    assert await seen(pool) == [(0, offset) for offset in range(9)]


async def test_the_successor_of_a_zombie_that_rolls_back_stores_all(pool: Pool) -> None:
    zombie = Storing("zombie", may_commit=asyncio.Event(), fails=[ConnectionResetError("gone")])
    successor, brokers = Storing("successor"), (FakeBroker(), FakeBroker())
    old, new = consumer_of(pool, brokers[0], zombie), consumer_of(pool, brokers[1], successor)
    await assign(old, brokers[0], ZERO)
    await assign(new, brokers[1], ZERO)
    stuck = asyncio.create_task(old.consume(records(range(5))))
    await zombie.applying.wait()
    taking_over = asyncio.create_task(new.consume(records(range(8))))
    assert zombie.may_commit is not None
    zombie.may_commit.set()
    await asyncio.gather(stuck, taking_over)
    await asyncio.gather(old.settle(), new.settle())

    assert [slice_.first_offset for slice_ in successor.slices] == [0]
    assert await seen(pool) == [(0, offset) for offset in range(8)]


async def test_what_a_zombie_has_in_flight_is_not_taken_for_lost_when_the_broker_deletes_it(pool: Pool) -> None:
    zombie, brokers = Storing("zombie", may_commit=asyncio.Event()), (FakeBroker(), FakeBroker())
    old, new = consumer_of(pool, brokers[0], zombie), consumer_of(pool, brokers[1], Storing("successor"))
    await assign(old, brokers[0], ZERO)
    await old.consume(records(range(5)))
    await zombie.applying.wait()
    brokers[1].beginning[ZERO] = 3
    brokers[1].assigned.add(ZERO)
    await new.on_partitions_assigned([ZERO])
    async with asyncio.timeout(20):
        while not await waits_for_lock(pool):  # noqa: ASYNC110 – nobody sets an event for it
            await asyncio.sleep(0.01)
    assert zombie.may_commit is not None
    zombie.may_commit.set()
    await old.settle()
    await settled()

    assert (new.not_ready, brokers[1].asked[-2:]) == (None, ["seek 0 to 5", "resume 0"])


async def waits_for_lock(pool: Pool) -> bool:
    """Tell whether a session of this database waits for another's lock."""
    return bool(
        await pool.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
    )


async def test_two_workers_that_start_a_partition_at_once_agree_on_its_start(pool: Pool) -> None:
    brokers = FakeBroker(beginning={ZERO: 4}), FakeBroker(beginning={ZERO: 4})
    consumers = [consumer_of(pool, broker, Storing()) for broker in brokers]
    for consumer, broker in zip(consumers, brokers, strict=True):
        broker.assigned.add(ZERO)
        await consumer.on_partitions_assigned([ZERO])
    await settled()

    assert [broker.asked[1] for broker in brokers] == ["seek 0 to 4", "seek 0 to 4"]
    assert await positions(pool) == {0: (4, 0, 0)}


# --- gathering --------------------------------------------------------------------------------------------------------

LONG = 60.0
"""Seconds that no test waits for."""


async def test_records_that_come_soon_after_a_slice_began_are_applied_together(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply, gather_seconds=0.2)
    await assign(consumer, broker, ZERO)
    await consumer.consume(records([0]))
    await asyncio.wait_for(apply.applying.wait(), 5)  # the first one waits for nothing
    for offset in (1, 2, 3):
        await consumer.consume(records([offset]))
    await consumer.settle()

    assert [[r.offset for r in one.records] for one in apply.slices] == [[0], [1, 2, 3]]
    assert await seen(pool) == [(0, offset) for offset in range(4)]


async def test_what_has_gathered_is_started_on_once_it_is_much(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply, gather_seconds=LONG, gathered_bytes=3)
    await assign(consumer, broker, ZERO)
    for first in (0, 1, 3):
        await asyncio.wait_for(consumer.consume(records(range(first, 2 * first + 1 if first else 1))), 5)
    async with asyncio.timeout(5):
        await consumer.settle()

    assert [[r.offset for r in one.records] for one in apply.slices] == [[0], [1, 2, 3, 4, 5, 6]]


async def test_records_that_have_waited_at_the_broker_wait_no_more(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply, gather_seconds=LONG)
    await assign(consumer, broker, ZERO)
    async with asyncio.timeout(5):
        await consumer.consume(records([0]))
        await consumer.settle()
        await consumer.consume(records([1]))  # it would wait for others
        await consumer.consume(records([2], age_seconds=3 * LONG))
        await consumer.settle()

    assert [[r.offset for r in one.records] for one in apply.slices] == [[0], [1, 2]]


@pytest.mark.parametrize("gather_seconds", [0.0, LONG])
async def test_a_backlog_gathers_behind_a_slice_that_is_at_work_and_holds_no_other_partition_up(
    pool: Pool, gather_seconds: float
) -> None:
    broker, apply = FakeBroker(), Storing(may_commit=asyncio.Event())
    consumer = consumer_of(pool, broker, apply, gather_seconds=gather_seconds)
    await assign(consumer, broker, ZERO, ONE)
    async with asyncio.timeout(5):
        await consumer.consume(records([0], age_seconds=3 * LONG))
        await apply.applying.wait()
        await consumer.consume([*records([1], age_seconds=3 * LONG), *records([0], partition=1, age_seconds=3 * LONG)])
        await consumer.consume(records([2], age_seconds=3 * LONG))
        await eventually(lambda: len(apply.slices) == 2)
        assert apply.may_commit is not None
        apply.may_commit.set()
        await consumer.settle()

    assert [(one.position.partition, [r.offset for r in one.records]) for one in apply.slices] == [
        (0, [0]), (1, [0]), (0, [1, 2]),
    ]  # fmt: skip


async def test_the_next_fetch_waits_once_much_waits_of_all_partitions(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.consumer, "ALL_GATHERED_BYTES", 4)
    broker, apply = FakeBroker(), Storing(may_commit=asyncio.Event())
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO, ONE)
    async with asyncio.timeout(5):
        await consumer.consume([*records([0]), *records([0], partition=1)])
        await eventually(lambda: len(apply.slices) == 2)
        await consumer.consume([*records([1]), *records([1, 2], partition=1)])
        fourth = asyncio.create_task(consumer.consume(records([2])))
        await asyncio.wait([fourth], timeout=0.1)
        assert not fourth.done()
        assert apply.may_commit is not None
        apply.may_commit.set()
        await fourth
        await consumer.settle()

    assert await seen(pool) == [(partition, offset) for partition in (0, 1) for offset in range(3)]


async def test_what_has_gathered_before_a_seek_is_dropped_and_comes_again(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply, gather_seconds=LONG, gathered_bytes=3)
    await assign(consumer, broker, ZERO)
    await consumer.consume(records([0]))
    await consumer.settle()
    await consumer.consume(records([1, 2]))
    consumer._fetch_failed(KafkaError("a fetch failed"))
    await settled()
    await consumer.consume(records([1, 2, 3]))
    async with asyncio.timeout(5):
        await consumer.settle()

    assert [[r.offset for r in one.records] for one in apply.slices] == [[0], [1, 2, 3]]


async def test_what_has_gathered_is_left_to_the_successor_by_a_worker_that_stops(pool: Pool) -> None:
    broker, apply = FakeBroker(), Storing()
    consumer = consumer_of(pool, broker, apply, gather_seconds=LONG)
    await assign(consumer, broker, ZERO, ONE)
    await consumer.consume([*records([0]), *records([0], partition=1)])
    await consumer.consume([*records([1]), *records([1], partition=1)])
    await consumer.on_partitions_revoked([ONE])
    async with asyncio.timeout(5):
        await consumer.close()

    assert await seen(pool) == [(0, 0), (1, 0)]


# --- what it tells others ---------------------------------------------------------------------------------------------


async def test_kafka_is_told_at_once_then_once_a_second_and_at_the_end(pool: Pool) -> None:
    broker = FakeBroker()
    consumer = consumer_of(pool, broker, Storing())
    await assign(consumer, broker, ZERO, ONE)

    async def told() -> None:
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "advise"))

    await consumer.consume(records(range(5)))
    await consumer.settle()
    await told()
    assert broker.committed == [{ZERO: 5}]

    await consumer.consume([*records(range(5, 7)), *records(range(2), partition=1)])
    await consumer.settle()
    assert broker.committed == [{ZERO: 5}]
    await told()
    assert broker.committed == [{ZERO: 5}, {ZERO: 7, ONE: 2}]

    await consumer.consume(records(range(7, 8)))
    await consumer.settle()
    await consumer.close()
    assert broker.committed[-1] == {ZERO: 8}


async def test_a_coordinator_that_does_not_answer_keeps_nobody_from_storing(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.advice.ADVISORY_TIMEOUT_SECONDS", 0.01)
    broker = FakeBroker(coordinator_answers=False)
    consumer = consumer_of(pool, broker, Storing())
    await assign(consumer, broker, ZERO)
    for first in range(0, 15, 5):
        await consumer.consume(records(range(first, first + 5)))
        await consumer.settle()

    assert await positions(pool) == {0: (15, 15, 0)}
    await consumer.close()


def gauge(partition: int) -> float | None:
    return REGISTRY.get_sample_value("tallystick_consumer_lag_records", {"topic": TOPIC, "partition": str(partition)})


async def test_the_lag_is_reported_while_nothing_moves(pool: Pool) -> None:
    broker, apply = FakeBroker(end={ZERO: 12, ONE: 3}), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO, ONE)
    await consumer.look()
    assert (gauge(0), gauge(1)) == (12, 3)

    apply.fails = [RuntimeError("no")]
    await consumer.consume(records(range(5)))  # paused after an error: nothing is fetched, but the topic grows
    await consumer.settle()
    broker.end[ZERO] = 40
    await consumer.look()
    assert gauge(0) == 40

    await consumer.on_partitions_revoked([ONE])
    await consumer.look()
    assert (gauge(0), gauge(1)) == (40, None)


async def test_the_lag_in_seconds_is_the_age_of_what_was_applied_last(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.lag.time", lambda: 1_000.0)
    broker = FakeBroker(end={ZERO: 12})
    consumer = consumer_of(pool, broker, Storing())
    await assign(consumer, broker, ZERO)
    await consumer.look()
    assert seconds(0) is None, "nobody knows yet"

    await consumer.consume([replace(record, timestamp=940_000) for record in records(range(5))])
    await consumer.settle()
    await consumer.look()
    assert seconds(0) == 60

    await consumer.consume(records(range(5, 12)))
    await consumer.settle()
    await consumer.look()
    assert seconds(0) == 0, "nothing waits"

    await consumer.on_partitions_revoked([ZERO])
    await consumer.look()
    assert seconds(0) is None


def seconds(partition: int) -> float | None:
    return REGISTRY.get_sample_value("tallystick_consumer_lag_seconds", {"topic": TOPIC, "partition": str(partition)})


async def test_records_that_a_fetch_has_not_told_of_are_lag(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = FakeBroker(end={ZERO: 9}, fetched_to={ZERO: 0})
    consumer = consumer_of(pool, broker, Storing())
    await assign(consumer, broker, ZERO)
    monkeypatch.setattr(FakeBroker, "last_stable_offset", lambda *_: None)  # fetching is stuck since it began
    assert await consumer.lag() == 0
    await consumer.look()
    assert await consumer.lag() == 9

    async def away(*_: object) -> None:
        raise KafkaConnectionError("away")

    monkeypatch.setattr(FakeBroker, "end_offsets", away)
    await consumer.look()
    assert await consumer.lag() == 0, "a broker that is away is no reason to restart"


async def test_a_worker_is_ready_when_it_is_in_its_group(pool: Pool) -> None:
    broker = FakeBroker()
    consumer = consumer_of(pool, broker, Storing())
    assert problem(consumer) == "usage.events: not in its group yet"
    await consumer.on_partitions_assigned([])
    assert problem(consumer) is None, "a spare is ready"


async def test_lag_is_what_waits_and_markers_at_the_end_do_not(pool: Pool) -> None:
    broker, apply = FakeBroker(end={ZERO: 12}), Storing()
    consumer = consumer_of(pool, broker, apply)
    await assign(consumer, broker, ZERO)
    await consumer.consume(records(range(5)))
    await consumer.settle()
    broker.fetched_to[ZERO] = 5
    assert await consumer.lag() == 7

    await consumer.consume(records(range(5, 10)))
    await consumer.settle()
    broker.fetched_to[ZERO] = 12  # a transaction's markers: fetched, but no records
    assert await consumer.lag() == 0

    await consumer.on_partitions_revoked([ZERO])
    assert await consumer.lag() == 0
