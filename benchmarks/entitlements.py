"""How long a process of the API takes to say whether a request may go, and to reserve, over HTTP.

    python -m benchmarks.entitlements [--per-second 1000] [--seconds 10] [--gateways 50] [--subscriptions 1000] [--json FILE]

Entitlements are asked at a fixed rate, whatever the answers take, of subscriptions drawn at random.
Then reservations are made as fast as `--gateways` get their answers. The figures of the server are those of its own histogram; the
gateways, Kafka and a durable Postgres share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.api import Api, make_subscriptions, running_api
from deploy.local.stack import Stack, running_stack

READ = "/api/v1/entitlements/{subscription_id}"
GOAL_SECONDS = 0.005


async def entitlements(api: Api, ids: Sequence[UUID], options: argparse.Namespace) -> dict[str, Any]:
    """Ask at a fixed rate; return what the answers took."""
    gateways: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(options.gateways):
        gateways.put_nowait(await api.gateway())
    waited: list[float] = []

    async def one(due: float) -> None:
        gateway = await gateways.get()
        answer = await gateway.ask("GET", f"/api/v1/entitlements/{random.choice(ids)}")
        gateways.put_nowait(gateway)
        assert answer.status == 200, answer
        assert answer.content["allowed"], answer
        waited.append(time.perf_counter() - due)

    async def rush(seconds: float) -> None:
        asked, began = [], time.perf_counter()
        for n in range(int(options.per_second * seconds)):
            due = began + n / options.per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(one(due)))
        await asyncio.gather(*asked)

    await rush(2)
    waited.clear()
    before, cpu, began = api.within(READ), api.cpu_seconds(), time.perf_counter()
    await rush(options.seconds)
    took, cpu = time.perf_counter() - began, api.cpu_seconds() - cpu
    counts = {limit: count - before.get(limit, 0) for limit, count in api.within(READ).items()}
    total = max(counts.values())
    return {
        "per_second": round(total / took),
        "cpu_microseconds_of_the_server": round(cpu / total * 1e6),
        "share_within_5_ms_at_the_server": round(counts[GOAL_SECONDS] / total, 4),
        "p99_at_the_server_is_at_most_ms": next(
            1e3 * limit for limit in sorted(counts) if counts[limit] >= 0.99 * total
        ),
        "p50_ms_with_network": _ms(waited, 500),
        "p99_ms_with_network": _ms(waited, 990),
    }


async def reservations(api: Api, ids: Sequence[UUID], options: argparse.Namespace, together: int) -> dict[str, Any]:
    """Reserve, so many in a request, as fast as answers come; return the rate."""
    waited: list[float] = []
    end = time.perf_counter() + options.seconds

    async def gateway() -> None:
        connection = await api.gateway()
        while (began := time.perf_counter()) < end:
            asked = [
                {"subscription": str(random.choice(ids)), "tokens": 900, "ttl_seconds": 60} for _ in range(together)
            ]
            answer = await connection.ask("POST", "/api/v1/reservations/batch", {"reservations": asked})
            assert answer.status == 200, answer
            assert {result["status"] for result in answer.content["results"]} == {201}, answer
            waited.append(time.perf_counter() - began)

    cpu, began = api.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(gateway() for _ in range(options.gateways)))
    took, cpu = time.perf_counter() - began, api.cpu_seconds() - cpu
    return {
        "per_second": round(together * len(waited) / took),
        "cpu_microseconds_of_the_server_for_each": round(cpu / len(waited) / together * 1e6),
        "p50_ms_with_network": _ms(waited, 500),
        "p99_ms_with_network": _ms(waited, 990),
    }


def _ms(values: Sequence[float], thousandth: int) -> float:
    return round(statistics.quantiles(values, n=1000)[thousandth - 1] * 1e3, 2)


async def measure(stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    """Run an API and ask it."""
    async with running_api(stack) as api:
        ids = await make_subscriptions(api.connection, options.subscriptions)
        return {
            "entitlements": await entitlements(api, ids, options),
            **{
                f"reservations, {together} in a request": await reservations(api, ids, options, together)
                for together in (1, 20)
            },
        }


def main() -> None:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-second", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--gateways", type=int, default=50, help="connections")
    parser.add_argument("--subscriptions", type=int, default=1_000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    with running_stack(say=lambda line: print(line, file=sys.stderr)) as running:
        measured = asyncio.run(measure(running.stack, options))
    figures = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_of_the_machine": round(os.getloadavg()[0], 1),
        **measured,
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
