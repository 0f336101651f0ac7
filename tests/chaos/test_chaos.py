"""Faults of every class strike a pipeline in use, and every event is still counted and billed once.

The long size by hand: `tallystick chaos --seed 1 --faults 10000 --events 10000000 --report docs/reports/chaos.md`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from services.cli.chaos.faults import WEIGHTS, plan
from tests.pipeline.running import TALLYSTICK

FAULTS: Final = 200
WORKERS: Final = ("ingest-0", "ingest-1", "aggregator-0", "billing-0")


async def chaos(*arguments: str) -> dict[str, Any]:
    """Run the harness as a user would; return what it found."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TALLYSTICK, "chaos", "--json", *arguments),
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, told = await process.communicate()
    assert process.returncode == 0, told.decode()[-4_000:] + out.decode()[-4_000:]
    return json.loads(out.decode().splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.timeout(1200)
async def test_every_event_is_counted_and_billed_once_whatever_strikes() -> None:
    found = await chaos("--seed", "1", "--faults", str(FAULTS))

    assert found["planned"] == FAULTS
    assert set(found["by_class"]) | set(found["missed"]) == set(WEIGHTS)
    assert (found["lost"], found["doubled"], found["double_billed"], found["unbilled"]) == (0, 0, 0, 0)
    assert found["failed_checks"] == []
    assert found["events"] > FAULTS * 250
    assert found["announced_losses"] > 0
    assert found["invoices"] > 0
    assert found["injected"] == [str(fault) for fault in plan(1, FAULTS, WORKERS)], (
        "the seed decides what strikes, and in which order"
    )
