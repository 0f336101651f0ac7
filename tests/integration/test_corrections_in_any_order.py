"""Void and amend in any order, resent and cut into any batches, by two workers: always the same sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.postgres import Pool
from tests.integration.aggregator_facts import make_subscription
from tests.integration.ingest_facts import Ingest
from tests.integration.test_corrections import announced, reasons, sums
from tests.unit.ingest.events import amend, record, structured, void

Plan: TypeAlias = tuple[dict[str, int], list[tuple[str, dict[str, Any]]], list[int]]
"""The tokens that remain of each event, what is sent, and the sizes of batches."""


@pytest_asyncio.fixture
async def subscription(ingest_pool: Pool) -> str:
    return str(await make_subscription(ingest_pool))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Events, each perhaps amended some times and perhaps voided in the end; in any order, some twice, in batches of any size."""
    remains: dict[str, int] = {}
    sent: list[tuple[str, dict[str, Any]]] = []
    for name in "pqrst"[: draw(st.integers(1, 5))]:
        tokens, current = draw(st.integers(0, 9)), name
        sent.append(("use", {"id": name, "data": {"request_tokens": tokens, "latency_ms": 10 * tokens}}))
        for number in range(draw(st.integers(0, 2))):
            tokens, amends, current = draw(st.integers(10, 99)), current, f"{name}{number}"
            sent.append(("amend", {"amends": amends, "id": current, "data": {"request_tokens": tokens}}))
        if draw(st.booleans()):
            sent.append(("void", {"voids": current, "id": f"{name}-void"}))
        else:
            remains[name] = tokens
    sent += draw(st.lists(st.sampled_from(sent), max_size=5))
    return remains, draw(st.permutations(sent)), draw(st.lists(st.integers(1, 4), min_size=20, max_size=20))


_MAKE: dict[str, Callable[..., bytes]] = {"use": structured, "void": void, "amend": amend}
_BACKWARDS: Plan = (
    {},
    [("void", {"voids": "p0"}), ("amend", {"amends": "p", "id": "p0"}), ("use", {"id": "p"})],
    [1] * 20,
)


@given(plan=plans())
@example(plan=_BACKWARDS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_order_and_batching_comes_to_the_same_sums(ingest_pool: Pool, subscription: str, plan: Plan) -> None:
    remains, sent, sizes = plan
    await ingest_pool.execute(
        "TRUNCATE ingest_positions, usage_logs, usage_ids, usage_batches, quarantined_events, held_events, ingest_outbox"
    )
    workers = [Ingest(ingest_pool), Ingest(ingest_pool)]
    offsets = [0, 0]
    for number, size in enumerate(sizes):
        batch, sent = sent[:size], sent[size:]
        if not batch:
            break
        partition = number % 2
        subject = {"subject": subscription}
        values = [_MAKE[kind](**fields, **({} if kind == "void" else subject)) for kind, fields in batch]
        first, offsets[partition] = offsets[partition], offsets[partition] + len(values)
        await workers[partition].apply(
            *(record(value, partition=partition, offset=first + n) for n, value in enumerate(values))
        )
        if size == 4:
            await workers[1 - partition].attribute()
    for _ in range(4):  # a chain whose last link came first: one link at a time
        await workers[0].attribute()

    workers[0].published += workers[1].published
    expected = {"requests": len(remains), "request_tokens": sum(remains.values()), "response_tokens": 5 * len(remains)}
    found = await sums(workers[0])
    assert found == announced(workers[0].recorded())
    found.pop("latency_sum_ms", None)
    assert found == {name: count for name, count in expected.items() if count}
    assert await reasons(workers[0]) == []
    assert all(row["attributed_batch_id"] for row in await workers[0].held())
    assert await workers[0].adds_up()
