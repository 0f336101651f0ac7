"""A chaos run: servers, workers and traffic come up, faults strike in their order, and at the end the books are compared."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from time import monotonic
from typing import Final

from services.billing.reconciliation import Check, reconcile
from services.cli.chaos.faults import plan
from services.cli.chaos.inject.invoices import close_rest
from services.cli.chaos.machine import commit_here, machine
from services.cli.chaos.memory import Memory
from services.cli.chaos.poison import largest
from services.cli.chaos.result import Result
from services.cli.chaos.stage import Stage
from services.cli.chaos.staging import READY_SECONDS, Options, Say, staged, workplace
from services.cli.chaos.strike import Strike
from services.cli.chaos.verdict import judge
from services.cli.demo.watch import Watch
from shared.settings import KafkaSettings

STALLED_SECONDS: Final = 300.0
LARGEST_RECORDS: Final = 2
Progressed = Callable[[int, int, str], None]
"""Takes the numbers of faults begun and of records sent, and what strikes now."""


async def run(options: Options, say: Say, progressed: Progressed) -> Result:
    """Run the faults of a seed. Raises `TallystickError` when something does not recover: that, too, is a failure."""
    result, begun = Result(str(options), options.seed, commit_here(), machine()), monotonic()
    with workplace() as place:
        async with staged(options, place, say) as stage:
            await _strike(stage, options, result, progressed)
            say(f"{stage.sender.published:,} records are sent; waiting until all of them are through")
            await stage.sender.end()
            await stage.workers.wait_until_ready(READY_SECONDS)
            kafka = KafkaSettings(kafka_bootstrap_servers=stage.servers.bootstrap_servers)
            await Watch(stage.pool, kafka).until_caught_up(lambda _: None, stalled_seconds=STALLED_SECONDS)
            say("closing what is left to invoice, and comparing")
            await close_rest(stage)
            await _judge(stage, result)
    result.seconds = monotonic() - begun
    result.prove_limits()
    return result


async def _strike(stage: Stage, options: Options, result: Result, progressed: Progressed) -> None:
    """Let traffic flow and faults strike. An interrupt ends both early: what was sent until then is still compared."""
    begun, memory = monotonic(), Memory(stage.workers)
    faults = plan(options.seed, options.faults, stage.workers.names)
    result.planned, result.disk_is_real = len(faults), stage.servers.small_disk.real

    def show(number: int, fault: str) -> None:
        progressed(number, stage.sender.drawn, fault)

    strike = Strike(stage, faults, options.wanted, result, show)
    stage.sender.pace(strike.allowed)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, strike.stopping.set)
    watching = asyncio.create_task(memory.watch(), name="memory")
    try:
        stage.sender.begin()
        await _send_largest(stage)
        await strike.run()
        while stage.sender.share < 1 and not strike.stopping.is_set():
            stage.sender.raise_failure()
            progressed(strike.done, stage.sender.drawn, "the rest of the traffic")
            await asyncio.sleep(1.0)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        watching.cancel()
    result.interrupted, result.striking_seconds = strike.stopping.is_set(), monotonic() - begun
    result.memory, result.memory_over_time, result.told = memory.most(), memory.over_time(), stage.told_seconds
    result.failed_checks += stage.problems


async def _send_largest(stage: Stage) -> None:
    for _ in range(LARGEST_RECORDS):
        made = largest(str(stage.world.subscriptions[0].id))
        stage.probes.books.refuse("10 MiB", made.reason)
        await stage.sender.send([made.record])


async def _judge(stage: Stage, result: Result) -> None:
    """Compare the books with the database, and the database with itself."""
    books = stage.traffic.books
    books.add(stage.probes.books)
    result.published, result.events = books.published, books.events
    result.record_faults, result.announced_losses = dict(books.record_faults), books.announced_losses
    async with stage.pool.acquire() as connection:
        verdict = await judge(connection, books)
        checks: list[Check] = [*verdict.checks, *await reconcile(connection)]
    result.lost, result.doubled = verdict.lost, verdict.doubled
    result.unbilled, result.double_billed = verdict.unbilled, verdict.double_billed
    result.invoices = verdict.invoices
    result.prove(checks)
