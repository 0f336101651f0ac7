"""The examples in other languages, run with curl, Node.js, Go and Java against the API as it runs: `make test-examples`."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from deploy.local import ports
from services.cli.supervisor import WorkerSpec
from tests.pipeline.conftest import pipeline  # noqa: F401 – a fixture
from tests.pipeline.running import Pipeline, workers
from tests.pipeline.test_producers import make_key, stored
from tests.usage_api import Said, usage_api

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
COMMANDS: Final = {
    "send-event.sh": ["/bin/sh"],
    "send-event.mjs": ["node"],
    "send-event.go": ["go", "run"],
    "SendEvent.java": ["java"],
}


def run(name: str, url: str, key: str = "tsk_test", subscription: str = "019a2f6e") -> subprocess.CompletedProcess[str]:
    said = {"TALLYSTICK_URL": url, "TALLYSTICK_API_KEY": key, "SUBSCRIPTION": subscription}
    command = [*COMMANDS[name], str(EXAMPLES / name)]
    return subprocess.run(command, env=os.environ | said, capture_output=True, text=True, timeout=300, check=False)


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(COMMANDS)


async def test_what_the_examples_send_is_in_the_log(pipeline: Pipeline) -> None:  # noqa: F811 – the fixture
    port = ports.choose()
    api = WorkerSpec("services.api", 0, ports.choose(), {"TALLYSTICK_API_PORT": str(port)})
    subscription = await pipeline.pool.fetchval(
        "SELECT id FROM subscriptions WHERE status = 'active' ORDER BY id LIMIT 1"
    )
    key = await make_key(pipeline, subscription, service=True)

    async with pipeline.running(*workers(ingest=1), api):
        for name in COMMANDS:
            done = await asyncio.to_thread(run, name, f"http://127.0.0.1:{port}", key, str(subscription))
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
            assert '"accepted"' in done.stdout
        await stored(pipeline)

    rows = await pipeline.pool.fetch("SELECT DISTINCT source FROM usage_logs WHERE subscription_id = $1", subscription)
    assert {row["source"] for row in rows} == {"/gateways/curl", "/gateways/node", "/gateways/go", "/gateways/java"}


@pytest.mark.parametrize("name", ["send-event.sh", "send-event.mjs"])
def test_an_example_ends_with_an_error_when_it_is_refused(name: str) -> None:
    with usage_api() as api:
        api.next_answers = [Said(401, {"detail": "who are you?"})]
        assert run(name, api.url).returncode != 0
