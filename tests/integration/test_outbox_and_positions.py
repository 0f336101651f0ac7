"""The kernel's tables: an outbox that loses nothing, positions with one row for each partition, a pool that leaves a demoted server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import asyncpg
import pytest
from prometheus_client import REGISTRY

from shared.errors import ServiceUnavailable
from shared.outbox import Message, NotAcknowledged, Outbox
from shared.positions import Position, Positions
from shared.postgres import Pool, connect, create_pool, transaction

OUTBOX = Outbox("ingest_outbox")


class Broker:
    """Takes messages, but for values that it refuses."""

    def __init__(self, *refused: bytes) -> None:
        self.refused = refused
        self.taken: list[bytes | None] = []

    async def __call__(self, messages: Sequence[Message]) -> None:
        refused = [m.id for m in messages if m.value in self.refused]
        self.taken += [m.value for m in messages if m.id not in refused]
        if refused:
            raise NotAcknowledged("too large", refused)


async def enqueue(pool: Pool, *messages: Message) -> None:
    async with transaction(pool) as connection:
        await OUTBOX.enqueue(connection, messages)


async def values(pool: Pool) -> list[bytes | None]:
    return [row["value"] for row in await pool.fetch("SELECT value FROM ingest_outbox ORDER BY id")]


async def test_a_message_survives_the_outbox_whole(ingest_pool: Pool) -> None:
    sent = [
        Message("t", b"\x00\xff", key=b"\x00", partition=3, headers={"a": "é\U0001f600", "b": ""}),
        Message("t", None, key=b"k"),
        Message("t", b""),
    ]
    await enqueue(ingest_pool, *sent)
    got: list[Message] = []

    async def produce(messages: Sequence[Message]) -> None:
        got.extend(messages)

    assert await OUTBOX.publish_leftovers(ingest_pool, produce, older_than_seconds=0) == 3
    assert got == sent
    assert await values(ingest_pool) == []


async def test_a_rolled_back_message_was_never_written(ingest_pool: Pool) -> None:
    with pytest.raises(RuntimeError):
        async with transaction(ingest_pool) as connection:
            await OUTBOX.enqueue(connection, [Message("t", b"1")])
            raise RuntimeError

    assert await values(ingest_pool) == []


async def test_leftovers_are_published_oldest_first_and_a_few_at_a_time(ingest_pool: Pool) -> None:
    broker = Broker()
    await enqueue(ingest_pool, *(Message("t", b"%d" % n) for n in range(5)))

    assert await OUTBOX.publish_leftovers(ingest_pool, broker, older_than_seconds=0, limit=3) == 3
    assert broker.taken == [b"0", b"1", b"2"]
    assert await OUTBOX.publish_leftovers(ingest_pool, broker, older_than_seconds=0, limit=3) == 2
    assert await OUTBOX.publish_leftovers(ingest_pool, broker, older_than_seconds=0, limit=3) == 0


async def test_a_message_that_is_refused_stays_and_does_not_hold_the_others_back(ingest_pool: Pool) -> None:
    broker = Broker(b"large")
    messages = [Message("t", b"1"), Message("t", b"large"), Message("t", b"2")]
    await enqueue(ingest_pool, *messages)

    with pytest.raises(NotAcknowledged):
        await OUTBOX.publish(ingest_pool, broker, messages)
    assert (broker.taken, await values(ingest_pool)) == ([b"1", b"2"], [b"large"])

    await enqueue(ingest_pool, Message("t", b"3"))
    with pytest.raises(NotAcknowledged):
        await OUTBOX.publish_leftovers(ingest_pool, broker, older_than_seconds=0)
    assert (broker.taken, await values(ingest_pool)) == ([b"1", b"2", b"3"], [b"large"])


async def test_after_any_other_error_all_messages_stay(ingest_pool: Pool) -> None:
    async def away(messages: Sequence[Message]) -> None:
        raise ConnectionError

    await enqueue(ingest_pool, *(messages := [Message("t", b"1"), Message("t", b"2")]))
    with pytest.raises(ConnectionError):
        await OUTBOX.publish(ingest_pool, away, messages)
    with pytest.raises(ConnectionError):
        await OUTBOX.publish_leftovers(ingest_pool, away, older_than_seconds=0)

    assert await values(ingest_pool) == [b"1", b"2"]


async def test_two_publishers_never_publish_the_same_leftovers_side_by_side(ingest_pool: Pool) -> None:
    await enqueue(ingest_pool, *(Message("t", b"%d" % n) for n in range(6)))
    taken, both = list[bytes | None](), asyncio.Barrier(2)

    async def produce(messages: Sequence[Message]) -> None:
        await both.wait()  # neither returns before the other has its share
        taken.extend(m.value for m in messages)

    async with asyncio.timeout(20):
        await asyncio.gather(
            *(OUTBOX.publish_leftovers(ingest_pool, produce, older_than_seconds=0, limit=3) for _ in range(2))
        )
    assert sorted(value or b"" for value in taken) == [b"%d" % n for n in range(6)]


async def test_the_outbox_tells_how_many_wait_and_how_long(ingest_pool: Pool) -> None:
    async with ingest_pool.acquire() as connection:
        assert await OUTBOX.waiting(connection) == (0, 0.0)
        await enqueue(ingest_pool, Message("t", b"1"), Message("t", b"2"))
        await connection.execute("UPDATE ingest_outbox SET created_at = now() - interval '1 minute'")
        waiting, seconds = await OUTBOX.waiting(connection)
    assert waiting == 2
    assert 60 <= seconds < 90


# --- positions --------------------------------------------------------------------------------------------------------


async def test_a_position_is_made_once_and_belongs_to_its_cluster(ingest_pool: Pool) -> None:
    main, other = Positions("ingest_positions", cluster="main"), Positions("ingest_positions", cluster="other")
    async with ingest_pool.acquire() as connection:
        assert await main.read(connection, "t", 0) is None
        assert await main.create(connection, "t", 0, 5) == Position("t", 0, 0, 5, 5)
        assert await main.create(connection, "t", 0, 9) == Position("t", 0, 0, 5, 5)
        assert await main.read(connection, "t", 1) is None
        assert await other.read(connection, "t", 0) is None


async def test_the_latest_epoch_is_the_present_one(ingest_pool: Pool) -> None:
    main = Positions("ingest_positions", cluster="main")
    async with ingest_pool.acquire() as connection, connection.transaction():
        await main.create(connection, "t", 0, 5)
        await connection.execute("INSERT INTO ingest_positions VALUES ('main', 't', 0, 1, 0, 0)")

        assert await main.read(connection, "t", 0) == Position("t", 0, 1, 0, 0)
        assert await main.lock(connection, "t", 0) == Position("t", 0, 1, 0, 0)


# --- the pool ---------------------------------------------------------------------------------------------------------


async def test_a_transaction_commits_whole_or_not_at_all(ingest_pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with transaction(ingest_pool) as connection:
            await connection.execute("CREATE TABLE half (a int)")
            raise ZeroDivisionError
    async with transaction(ingest_pool) as connection:
        assert await connection.fetchval("SELECT to_regclass('half')") is None


async def test_a_connection_that_breaks_says_why_and_the_next_one_works(ingest_pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with transaction(ingest_pool) as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await ingest_pool.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
            raise ZeroDivisionError  # not what the clean-up would say of a connection that is gone

    async with transaction(ingest_pool) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_server_that_became_read_only_costs_the_pool_its_sessions(
    ingest_pool: Pool, ingest_database: str
) -> None:
    name = urlsplit(ingest_database).path.removeprefix("/")
    await ingest_pool.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        pool = await asyncpg.create_pool(ingest_database, min_size=2, max_size=2)
    finally:
        async with ingest_pool.acquire() as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    try:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await enqueue(pool, Message("t", b"1"))
        await enqueue(pool, Message("t", b"2"))  # a session that was opened since
        await asyncio.gather(*(enqueue(pool, Message("t", b"3")) for _ in range(2)))
    finally:
        await pool.close()

    assert await values(ingest_pool) == [b"2", b"3", b"3"]


async def test_sessions_think_in_utc_and_do_not_wait_for_ever(ingest_pool: Pool) -> None:
    assert await ingest_pool.fetchval("SHOW TimeZone") == "UTC"
    assert await ingest_pool.fetchval("SHOW lock_timeout") == "30s"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://localhost:1/usage",
        "postgresql:///usage?host=/nowhere",
        "mysql://localhost/usage",
        "postgresql://nobody.invalid/usage",
        "",
    ],
)
async def test_an_address_where_nobody_answers_is_told_in_one_line(address: str) -> None:
    for opening in (create_pool(address), connect(address)):
        with pytest.raises(ServiceUnavailable, match="check DATABASE_URL") as told:
            await opening
        assert "\n" not in str(told.value)


async def test_a_database_that_does_not_exist_is_told_in_one_line(postgres: str) -> None:
    address = urlsplit(postgres)._replace(path="/nothing_here").geturl()
    with pytest.raises(ServiceUnavailable, match='"nothing_here" does not exist'):
        await create_pool(address)


async def test_how_much_waits_is_told_above_all_when_the_broker_takes_nothing(ingest_pool: Pool) -> None:
    await enqueue(ingest_pool, Message("t", b"1"), Message("t", b"2"))

    async def refuse(messages: Sequence[Message]) -> None:
        raise ConnectionError("no broker")

    async def produce(messages: Sequence[Message]) -> None:
        pass

    with pytest.raises(ConnectionError):
        await OUTBOX.empty(ingest_pool, refuse, service="ingest", older_than_seconds=0)
    assert REGISTRY.get_sample_value("tallystick_outbox_waiting_messages", {"outbox": "ingest"}) == 2
    assert (REGISTRY.get_sample_value("tallystick_outbox_oldest_seconds", {"outbox": "ingest"}) or 0) > 0

    await OUTBOX.empty(ingest_pool, produce, service="ingest", older_than_seconds=0)
    assert REGISTRY.get_sample_value("tallystick_outbox_waiting_messages", {"outbox": "ingest"}) == 0
