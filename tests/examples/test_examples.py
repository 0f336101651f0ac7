"""The examples in other languages send an event that is accepted; `make test-examples` runs them with curl, Node.js, Go and Java."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.usage_api import Said, usage_api

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
COMMANDS: Final = {
    "send-event.sh": ["/bin/sh"],
    "send-event.mjs": ["node"],
    "send-event.go": ["go", "run"],
    "SendEvent.java": ["java"],
}


def run(name: str, url: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "TALLYSTICK_URL": url,
        "TALLYSTICK_API_KEY": "tsk_test",
        "SUBSCRIPTION": "019a2f6e",
        "GOTOOLCHAIN": "local",
    }
    command = [*COMMANDS[name], str(EXAMPLES / name)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_sends_an_event_that_is_accepted(name: str) -> None:
    with usage_api() as api:
        done = run(name, api.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"accepted"' in done.stdout
        ((source, _),) = api.events
        assert source.startswith("/gateways/")


@pytest.mark.parametrize("name", ["send-event.sh", "send-event.mjs"])
def test_an_example_ends_with_an_error_when_it_is_refused(name: str) -> None:
    with usage_api() as api:
        api.next_answers = [Said(401, {"detail": "who are you?"})]
        assert run(name, api.url).returncode != 0
