"""`tallystick demo`: from nothing to a proof, interruptible, and again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from deploy.local import stack
from deploy.local.stack import Stack
from tests.pipeline.running import TALLYSTICK, Pipeline


@pytest.fixture
def bare_environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a newcomer: no servers are named. What a demo leaves running is ended."""
    named = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS")
    environ = {name: value for name, value in os.environ.items() if name not in named}
    yield {**environ, "TALLYSTICK_LOCAL_DIR": str(tmp_path / "local"), "PYTHONPATH": str(Path.cwd())}
    stack.down(directory=tmp_path / "demo", purge=True)


async def start(environ: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TALLYSTICK, "demo", *arguments),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def outcome_of(demo: asyncio.subprocess.Process) -> tuple[dict[str, Any], str]:
    """The JSON object that is all its standard output, and what it told a person on stderr; its exit code must be 0."""
    out, told = await demo.communicate()
    assert demo.returncode == 0, told.decode()[-4_000:]
    (line,) = out.decode().splitlines()
    return json.loads(line), told.decode()


async def test_a_newcomer_gets_from_nothing_to_a_proof(bare_environ: dict[str, str], tmp_path: Path) -> None:
    outcome, told = await outcome_of(await start(bare_environ, "--events", "5000", "--json", "--keep"))

    assert outcome["reconciled"] is True
    assert outcome["failed_checks"] == []
    # Of 5,000 events 25 come late, and one is taken back: by a row of its own.
    assert (outcome["inserted"], outcome["duplicates"]) == (5_001, 50)
    assert outcome["adjustments"] > 0
    assert (await asyncio.to_thread(Path(outcome["invoice_file"]).read_bytes)).startswith(b"%PDF-")
    assert outcome["published"] == sum(outcome[name] for name in ("inserted", "duplicates", "quarantined", "held"))
    assert outcome["workers_restarted"] >= 1
    assert outcome["suspended"] > 0
    assert outcome["invoices"] > 0
    assert outcome["events_per_second"] > 0
    for chapter in (
        "Traffic",
        "Largest summaries",
        "Refused, and why",
        "Suspended, and why",
        "INV-",
        "as a PDF: ",
        "adjustment: ",
        "rated anew: ",
        "would have been ",
        "The proof",
        "psql ",
    ):
        assert chapter in told

    kept = stack.status(tmp_path / "demo")
    assert kept is not None, "--keep leaves the servers running"
    connection = await asyncpg.connect(kept.database_url)
    stored = await connection.fetchrow(
        "SELECT count(*), sum(request_tokens)::bigint, sum(response_tokens)::bigint FROM usage_logs"
    )
    await connection.close()
    assert tuple(stored) == (5_001, outcome["request_tokens"], outcome["response_tokens"])


async def test_an_interrupted_demo_leaves_no_process_and_can_be_run_again(pipeline: Pipeline, stack: Stack) -> None:
    demo = await start(pipeline.environ, "--events", "8000", "--rate", "2000")
    assert demo.stdout is not None
    async for line in demo.stdout:
        if b"half is sent" in line:
            break
    started = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(signal.SIGINT)
    out, told = await demo.communicate()

    assert started
    assert demo.returncode == 130, told.decode()
    assert b"Traceback" not in out + told
    assert [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []

    outcome, _ = await outcome_of(await start(pipeline.environ, "--events", "1000", "--json"))
    assert outcome["inserted"] == 1_001  # one row takes an event back


async def test_a_demo_refuses_a_database_with_real_usage(pipeline: Pipeline) -> None:
    await pipeline.pool.execute("SELECT ensure_usage_partition(now())")
    await pipeline.pool.execute(
        "INSERT INTO usage_logs (created_at, id, subscription_id, batch_id, model_id, source, request_id) "
        "SELECT now(), gen_random_uuid(), id, gen_random_uuid(), 'gpt-4o', '/gateways/eu-1', 'req-1' FROM subscriptions LIMIT 1"
    )
    demo = await start(pipeline.environ, "--events", "1000")
    _, told = await demo.communicate()

    assert demo.returncode == 2
    assert "holds usage that is not of a demo (source /gateways/eu-1)" in told.decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--trace", "nothing.csv"), "there is no file nothing.csv"),
        (("--events", "many"), "a valid integer"),
        (("--start", "yesterday"), "does not match"),
        (
            ("--trace", "tests/data/azure_llm_inference_2023_conv.csv", "--start", "2020-01-01"),
            "choose another day with --start",
        ),
    ],
)
async def test_a_wrong_flag_is_told_in_one_line(arguments: tuple[str, ...], said: str, pipeline: Pipeline) -> None:
    demo = await start(pipeline.environ, *arguments)
    _, told = await demo.communicate()

    assert demo.returncode == 2
    assert said in told.decode()
    assert told.decode().count("\n") == 1
