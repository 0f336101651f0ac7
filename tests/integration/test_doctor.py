"""The doctor at a real Postgres and a real Kafka in which several things are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.postgres import Pool


async def doctor(environ: dict[str, str], *arguments: str, exit_code: int) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from services.cli.main import main; main()", "doctor", *arguments),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    assert process.returncode == exit_code, said.decode() + complaint.decode()
    return said.decode() + complaint.decode()


async def damage(database: str, pool: Pool) -> None:
    """Plant what the doctor should find in a database."""
    await pool.execute("INSERT INTO aggregator_positions VALUES ('main', 'usage.recorded', 0, 0, 0, 41, 41)")
    await pool.execute(
        "INSERT INTO billing_outbox (id, topic, value, created_at) VALUES (gen_random_uuid(), 'x', '', now() - interval '1 h')"
    )
    await pool.execute("REVOKE SELECT ON subscriptions FROM tallystick_billing")
    await pool.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")
    await pool.execute("CREATE TABLE bloated (x int); INSERT INTO bloated SELECT generate_series(1, 20000)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON bloated ((x % 2))")
    async with pool.acquire() as connection:
        await connection.execute("ALTER TABLE bloated SET (autovacuum_enabled = off)")
        await connection.execute("SELECT pg_stat_force_next_flush()")
        await connection.execute("DELETE FROM bloated WHERE x > 5000")
        await connection.execute("SELECT pg_stat_force_next_flush()")


async def test_what_is_wrong_is_found_with_what_to_do(
    database: str, database_pool: Pool, kafka_bootstrap: str, topic_prefix: str
) -> None:
    await damage(database, database_pool)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    topics = {"usage.events": (2, {"cleanup.policy": "compact"}), "usage.recorded": (1, {"retention.ms": "60000"})}
    await admin.create_topics([NewTopic(topic_prefix + name, n, 1, topic_configs=c) for name, (n, c) in topics.items()])
    holder = await asyncpg.connect(database, server_settings={"application_name": "somebody"})
    await holder.execute("BEGIN; LOCK TABLE bloated")
    waiter = asyncio.create_task(database_pool.execute("SELECT count(*) FROM bloated"))
    environ = {
        **os.environ,
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": topic_prefix,
    }
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    try:
        async with asyncio.timeout(30):
            while not await database_pool.fetchval(waits):  # noqa: ASYNC110 – of the server
                await asyncio.sleep(0.02)
        found: dict[str, Any] = json.loads(await doctor(environ, "--json", exit_code=1))
    finally:
        await holder.close()
        await waiter
        await admin.delete_topics([topic_prefix + name for name in topics])
        await admin.close()
    said = {(finding["severity"], finding["check"]): finding["what"] for finding in found["findings"]}
    assert "tallystick_billing lacks 1 of its rights" in said["error", "roles"]
    assert "index broken is invalid" in said["warning", "indexes"]
    assert "bloated has 15,000 dead rows beside 5,000 live ones" in said["warning", "bloat"]
    assert "somebody" in said["warning", "transactions"]
    assert "1 sessions wait for it" in said["warning", "transactions"]
    assert "not applied yet" in said["warning", "migrations"]
    assert "billing has waited for 3,6" in said["error", "outbox"]
    assert "events of now cannot be stored" in said["error", "partitions"], "nobody has made any in this database"
    assert said["error", "setting fsync"], "the server of the tests is not durable"
    assert "usage.events is compacted" in said["error", "compaction"]
    assert "there is one copy of" in said["warning", "replication"]
    assert "usage.recorded keeps records for 0.0 h" in said["warning", "retention"]
    assert "aggregator in partition 0 of usage.recorded is at 41, the topic ends at 0" in said["error", "positions"]
    assert any("usage.recorded has 1 partitions, usage.events has 2" in f["what"] for f in found["findings"])
    assert any("Kafka has no topic usage.dead-letter" in f["what"] for f in found["findings"])
    assert all(finding["do"] for finding in found["findings"])
    assert abs(found["database"]["clock_ahead"]) < 30


async def test_it_says_when_it_cannot_look(database: str, empty_database: str) -> None:
    environ = {**os.environ, "DATABASE_URL": empty_database}
    assert "run 'tallystick migrate'" in await doctor(environ, "--database-only", exit_code=2)
    environ = {**os.environ, "DATABASE_URL": database, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    assert "Kafka does not answer at 127.0.0.1:1" in await doctor(environ, exit_code=2)
