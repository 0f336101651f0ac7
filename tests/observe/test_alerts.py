"""Alerts in a real Prometheus: silent while all is well, firing when a worker is killed, gone when it is back."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Final

from deploy.local import ports
from services.cli.demo.live import api_worker, gateways
from services.cli.demo.observe import RULES, find_programs, prometheus
from services.cli.supervisor import WorkerSpec
from services.ingest.settings import Settings
from tests.observe.looking import POLL_SECONDS, Prometheus, until
from tests.pipeline.running import Pipeline, workers

FASTER: Final = 60
"""So many times shorter does what an alert reports have to last (`for`) in this test than in deploy/prometheus: 2 s in place of 2 minutes."""
HEALTHY_SECONDS: Final = 10.0
WARM_EVENTS: Final = 300
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def faster(rules: str) -> str:
    """Return rules whose alerts fire `FASTER`; what they ask for stays what it is."""
    return re.sub(r"for: (\d+)([smh])", lambda m: f"for: {max(1, int(m[1]) * _SECONDS[m[2]] // FASTER)}s", rules)


def test_only_how_long_an_alert_waits_is_changed() -> None:
    assert faster("for: 2m\nexpr: rate(x[5m])\nfor: 1h") == "for: 2s\nexpr: rate(x[5m])\nfor: 60s"


async def test_an_alert_fires_when_the_aggregator_is_killed_and_is_gone_when_it_is_back(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    aggregator, others = WorkerSpec("services.aggregator", 0, ports.choose()), workers(ingest=1, billing=1)
    api, down = api_worker(), ("TallystickWorkerDown", "aggregator")
    settings = Settings(
        database_url=pipeline.environ["DATABASE_URL"],
        kafka_bootstrap_servers=pipeline.kafka.kafka_bootstrap_servers,
        kafka_topic_prefix=pipeline.kafka.kafka_topic_prefix,
    )
    sending = await gateways(settings, pipeline.pool, api)
    program = find_programs(pipeline.environ).prometheus
    async with AsyncExitStack() as until_the_end, pipeline.running(*others, api):
        async with sending.running():
            async with pipeline.running(aggregator) as running:
                await until_summed_up(pipeline)
                observing = prometheus(
                    program, tmp_path / "prometheus", [*others, aggregator, api], rules=faster(RULES.read_text())
                )
                looking = Prometheus(await until_the_end.enter_async_context(observing))
                await assert_silent(looking)
                running.kill(aggregator.name)
            await until(lambda: down in looking.firing(), "the alert fires", said=looking.firing)
            await until_the_end.enter_async_context(pipeline.running(aggregator))
            await until(lambda: down not in looking.firing(), "the alert is gone", said=looking.firing)
        await pipeline.caught_up()
        assert await pipeline.broken_checks() == []


async def until_summed_up(pipeline: Pipeline) -> None:
    """Wait until usage is on its way through: what the first batches take, while workers warm up, is nobody's usual."""
    query = "SELECT coalesce(sum(request_count), 0) FROM usage_summaries WHERE period_type = 'hour'"
    while await pipeline.pool.fetchval(query) < WARM_EVENTS:  # noqa: ASYNC110 (another process does it)
        await asyncio.sleep(POLL_SECONDS)


async def assert_silent(looking: Prometheus) -> None:
    """All workers answer, and for a while no alert fires. A Prometheus that starts takes 5 s to find whom to ask, and misses them meanwhile."""
    await until(lambda: list(looking.up().values()) == ["up"] * 4, "all workers are up", said=looking.up)
    await until(lambda: not looking.query('ALERTS{alertname="TallystickServiceAbsent"}'), "nobody is absent")
    end = monotonic() + HEALTHY_SECONDS
    while monotonic() < end:
        assert await asyncio.to_thread(looking.firing) == set()
        await asyncio.sleep(POLL_SECONDS)
    assert looking.query("sum(rate(usage_aggregator_events_total[10s])) > 0"), "nothing was going on"
