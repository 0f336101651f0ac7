"""Many requests at once do not run through a quota: the proxy, the API and the pipeline as they run."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from deploy.local import ports
from services.cli.supervisor import WorkerSpec
from tests.integration.schema_facts import make_subscription
from tests.litellm.conftest import MakeProxy
from tests.pipeline.conftest import pipeline  # noqa: F401 – a fixture
from tests.pipeline.running import Pipeline, workers
from tests.pipeline.test_producers import make_key

QUOTA: Final = 20
REQUESTS: Final = 60
AT_ONCE: Final = 30


async def test_no_more_requests_are_served_than_the_quota_has(pipeline: Pipeline, make_proxy: MakeProxy) -> None:  # noqa: F811 – the fixture
    port = ports.choose()
    api = WorkerSpec("services.api", 0, ports.choose(), {"TALLYSTICK_API_PORT": str(port)})
    async with pipeline.pool.acquire() as connection:
        gateway = await make_key(pipeline, await make_subscription(connection), service=True)
        subscription = await make_subscription(connection, quota_requests=QUOTA)
    settings = {
        "TALLYSTICK_URL": f"http://127.0.0.1:{port}", "TALLYSTICK_API_KEY": gateway, "TALLYSTICK_LITELLM_SUBSCRIPTION": str(subscription),
        "TALLYSTICK_LITELLM_ENFORCE": "reservations", "TALLYSTICK_LITELLM_WHEN_AWAY": "refuse", "TALLYSTICK_LITELLM_ASK_SECONDS": "20",
    }  # fmt: skip

    async with pipeline.running(*workers(ingest=1, aggregator=1, billing=1), api):
        proxy = await asyncio.to_thread(lambda: make_proxy(**settings))

        def ask(number: int) -> int:
            body: dict[str, Any] = {
                "model": "chat",
                "messages": [{"role": "user", "content": "hi"}],
                "stream": number % 2 == 0,
            }
            return proxy.ask("POST", "/v1/chat/completions", body).status

        with ThreadPoolExecutor(AT_ONCE) as clients:
            answers = await asyncio.to_thread(lambda: list(clients.map(ask, range(REQUESTS))))
        await asyncio.to_thread(proxy.stop)
        await pipeline.caught_up()

    assert {status: answers.count(status) for status in set(answers)} == {200: QUOTA, 429: REQUESTS - QUOTA}
    used = await pipeline.pool.fetchval("SELECT used_requests FROM subscriptions WHERE id = $1", subscription)
    logged = await pipeline.pool.fetchval("SELECT count(*) FROM usage_logs WHERE subscription_id = $1", subscription)
    open_now = await pipeline.pool.fetchval(
        "SELECT count(*) FROM reservations WHERE subscription_id = $1 AND state = 'held'", subscription
    )
    assert (used, logged, open_now) == (QUOTA, QUOTA, 0)
