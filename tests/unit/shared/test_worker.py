"""What a worker says of itself, and that its background work goes on after an error."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Any, cast
from unittest.mock import Mock

import pytest

from shared.consumer import ExactlyOnceConsumer
from shared.errors import ConfigurationError
from shared.startup import check_port
from shared.worker import (
    HEARTBEAT_LATE_SECONDS,
    LAST_WORK_SECONDS,
    STUCK_SECONDS,
    Periodic,
    Worker,
    _repeat,
)


class FakeMetrics:
    topic = "usage.events"

    def __init__(self, idle_seconds: float) -> None:
        self.last_progress = monotonic() - idle_seconds


class FakeConsumer:
    def __init__(self, *, lag: int, idle_seconds: float, not_ready: str | None = None) -> None:
        self._lag, self.not_ready, self.metrics, self.closed = lag, not_ready, FakeMetrics(idle_seconds), False
        self.lost: str | None = None
        self.looked = asyncio.Event()

    async def lag(self) -> int:
        return self._lag

    async def look(self) -> None:
        self.looked.set()

    async def close(self) -> None:
        self.closed = True


def worker(*consumers: FakeConsumer, **parts: Any) -> Worker:
    return Worker("ingest", cast(Any, None), consumers=cast("list[ExactlyOnceConsumer]", consumers), **parts)


async def test_records_that_wait_while_nothing_is_committed_are_a_reason_to_restart() -> None:
    assert await worker(FakeConsumer(lag=5, idle_seconds=STUCK_SECONDS + 1)).dead() == (
        f"usage.events: 5 records wait, nothing was committed for {STUCK_SECONDS + 1:.0f} s"
    )


@pytest.mark.parametrize(
    ("lag", "idle_seconds", "not_ready"),
    [(5, STUCK_SECONDS / 2, None), (0, STUCK_SECONDS * 10, None), (5, STUCK_SECONDS * 10, "database is away")],
    ids=["busy", "idle", "waiting for a server"],
)
async def test_a_worker_that_could_not_do_better_is_left_alone(
    lag: int, idle_seconds: float, not_ready: str | None
) -> None:
    consumer = FakeConsumer(lag=lag, idle_seconds=idle_seconds, not_ready=not_ready)
    assert await worker(consumer).dead() is None


async def test_a_client_that_has_left_its_group_for_good_is_a_reason_to_restart() -> None:
    consumer = FakeConsumer(lag=0, idle_seconds=0, not_ready="usage.events: not in its group yet")
    consumer.lost = "usage.events: the client has left the group"
    assert await worker(consumer).dead() == consumer.lost


async def test_what_comes_after_a_long_pause_is_not_late() -> None:
    consumer = FakeConsumer(lag=0, idle_seconds=STUCK_SECONDS * 10)
    probed = worker(consumer)
    await probed.dead()
    consumer._lag = 5

    assert await probed.dead() is None


async def test_an_event_loop_that_stands_still_is_a_reason_to_restart() -> None:
    stuck = worker()
    stuck._beat = monotonic() - HEARTBEAT_LATE_SECONDS - 1

    assert "the event loop has not run for" in str(await stuck.dead())
    await stuck._heartbeat()
    assert await stuck.dead() is None


async def test_periodic_work_goes_on_after_an_error() -> None:
    runs, enough = 0, asyncio.Event()

    async def action() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            enough.set()
        raise RuntimeError("no")

    task = asyncio.create_task(_repeat(Periodic("work", 0.0, action)))
    async with asyncio.timeout(5):
        await enough.wait()
    task.cancel()
    assert runs >= 3


async def test_stopping_ends_the_work_closes_consumers_and_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.worker.LAST_WORK_SECONDS", 0.01)
    monkeypatch.setattr("shared.worker.gc", Mock())  # the tests' own garbage is not the worker's
    assert LAST_WORK_SECONDS > 1
    never, consumer = asyncio.Event(), FakeConsumer(lag=0, idle_seconds=0)
    stopping = worker(consumer, on_stop=[never.wait], periodic=[Periodic("work", 0.0, never.wait)])
    await stopping.start()
    async with asyncio.timeout(5):
        await consumer.looked.wait()

    await stopping.stop()

    assert consumer.closed
    assert all(task.done() for task in stopping._tasks)


def test_a_port_that_is_taken_is_told() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(ConfigurationError, match=r"\(Address already in use\): set TALLYSTICK_HTTP_PORT"),
    ):
        check_port("127.0.0.1", server.getsockname()[1])


@pytest.mark.parametrize("host", ["203.0.113.1", "nobody.invalid"])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(ConfigurationError, match="set TALLYSTICK_HTTP_PORT and TALLYSTICK_HTTP_HOST"):
        check_port(host, 8080)
