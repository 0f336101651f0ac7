"""The commands around the pipeline, run as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient
from jsonschema import Draft202012Validator

from deploy.local import ports
from deploy.local.stack import Stack
from shared.kafka import topic_plan
from shared.postgres import Pool

TALLYSTICK = "import sys; from services.cli.main import main; main()"


@pytest.fixture
def environ(stack: Stack, database: str, topic_prefix: str, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": topic_prefix,
        "TALLYSTICK_LOCAL_DIR": str(tmp_path / "local"),
        "PYTHONPATH": str(Path.cwd()),
    }


@pytest_asyncio.fixture
async def topics(environ: dict[str, str]) -> AsyncIterator[str]:
    """Topics made by `tallystick topics`; what that said."""
    code, said, _ = await tallystick(environ, "topics", "--partitions", "2")
    assert code == 0
    yield said
    admin = AIOKafkaAdminClient(bootstrap_servers=environ["KAFKA_BOOTSTRAP_SERVERS"])
    await admin.start()
    await admin.delete_topics([environ["TALLYSTICK_KAFKA_TOPIC_PREFIX"] + name for name in topic_plan(2)])
    await admin.close()


async def start(environ: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TALLYSTICK, *arguments),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def tallystick(environ: dict[str, str], *arguments: str) -> tuple[int | None, str, str]:
    """Run a command; return exit code, standard output and standard error."""
    process = await start(environ, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_topics_are_created_once(environ: dict[str, str], topics: str, topic_prefix: str) -> None:
    assert f"{topic_prefix}usage.events created with 2 partitions" in topics
    assert topics.count("created") == len(topic_plan(2))

    _, again, _ = await tallystick(environ, "topics")

    assert again.count("exists") == len(topic_plan(2))


async def test_the_published_schema_is_a_schema(environ: dict[str, str]) -> None:
    code, said, _ = await tallystick(environ, "schema", "usage-event")

    assert code == 0
    Draft202012Validator.check_schema(json.loads(said))


async def test_reconcile_names_what_differs_and_exits_with_1(environ: dict[str, str], database_pool: Pool) -> None:
    code, said, _ = await tallystick(environ, "reconcile")
    assert (code, "DIFFERS" in said) == (0, False)

    await database_pool.execute(
        "INSERT INTO usage_summaries (subscription_id, period_type, period_start, request_count, latency_histogram) "
        "VALUES ('019a2f6e-0000-7000-8000-000000000001', 'hour', '2026-11-21T10:00Z', 3, array_fill(0, ARRAY[12]))"
    )
    code, said, _ = await tallystick(environ, "reconcile")
    assert code == 1
    assert "log = hours: requests" in said
    assert "differs: subscription 019a2f6e-0000-7000-8000-000000000001, hour 2026-11-21 10" in said

    code, said, _ = await tallystick(environ, "reconcile", "--json")
    document = json.loads(said)
    assert (code, document["reconciled"]) == (1, False)
    (requests,) = [check for check in document["checks"] if check["name"] == "log = hours: requests"]
    assert (requests["left"], requests["right"], requests["holds"]) == (0, 3, False)


async def test_reconcile_wants_a_schema(environ: dict[str, str], empty_database: str) -> None:
    code, _, told = await tallystick({**environ, "DATABASE_URL": empty_database}, "reconcile")

    assert (code, told.count("\n")) == (2, 1)
    assert "run 'tallystick migrate'" in told


async def test_up_runs_workers_until_it_is_told_to_stop(environ: dict[str, str], topics: str, tmp_path: Path) -> None:
    arguments = ("--ingest", "1", "--aggregator", "1", "--billing", "0", "--api", "0", "--port", str(ports.choose()))
    up = await start(environ, "up", *arguments, "--logs", str(tmp_path))
    assert up.stdout is not None
    said = [(await up.stdout.readline()).decode() for _ in range(3)]
    assert "ingest-0       ready, http://127.0.0.1:" in said[0]
    assert said[2] == "2 workers run; Ctrl-C stops them\n"

    up.send_signal(signal.SIGTERM)
    out, told = await up.communicate()

    assert (up.returncode, out) == (0, b"all workers have stopped\n"), told
    for name in ("ingest-0", "aggregator-0"):
        assert '"event": "worker_stopped"' in (tmp_path / f"{name}.log").read_text()


async def test_up_says_what_a_worker_lacks(environ: dict[str, str], tmp_path: Path) -> None:
    arguments = (
        "--aggregator",
        "0",
        "--billing",
        "0",
        "--api",
        "0",
        "--port",
        str(ports.choose()),
        "--logs",
        str(tmp_path),
    )
    code, _, told = await tallystick(environ, "up", *arguments)

    assert (code, told.count("\n")) == (2, 1)
    assert "ingest-0 cannot run" in told
    assert "make them with 'tallystick topics' first" in told


async def test_up_refuses_a_port_that_is_taken_and_to_run_nothing(environ: dict[str, str]) -> None:
    taken = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with taken:
        code, _, told = await tallystick(environ, "up", "--api", "0", "--port", str(port))
    assert (code, told.count("\n")) == (2, 1)
    assert f"port {port} is in use" in told

    code, _, told = await tallystick(
        environ, "up", "--ingest", "0", "--aggregator", "0", "--billing", "0", "--api", "0"
    )
    assert (code, "no worker was asked for" in told) == (2, True)
