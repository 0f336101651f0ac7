"""A recorded trace of real traffic goes through exactly, and a second replay of it adds nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.pipeline.running import Pipeline, workers

TRACE: Final = Path(__file__).parents[1] / "data" / "azure_llm_inference_2023_conv.csv"
TOTALS: Final = (19_366, 22_361_870, 4_088_665)
"""Requests, request tokens and response tokens, as the README of the trace states them."""

LOGGED = "SELECT count(*), sum(request_tokens)::bigint, sum(response_tokens)::bigint FROM usage_logs"
SUMMARISED = """
    SELECT sum(request_count)::bigint, sum(request_tokens)::bigint, sum(response_tokens)::bigint
    FROM usage_summaries WHERE period_type = 'month'
"""
DUPLICATES = "SELECT sum(duplicates)::bigint FROM ingest_positions"


async def test_the_real_trace_is_counted_exactly_and_a_second_replay_adds_nothing(pipeline: Pipeline) -> None:
    async with pipeline.running(*workers(ingest=2, aggregator=1, billing=1)):
        said = await pipeline.command("replay", str(TRACE))
        assert "published 19366 events" in said
        await pipeline.caught_up()

        assert tuple(await pipeline.pool.fetchrow(LOGGED)) == TOTALS
        assert tuple(await pipeline.pool.fetchrow(SUMMARISED)) == TOTALS
        assert await pipeline.pool.fetchval(DUPLICATES) == 0

        await pipeline.command("replay", str(TRACE), "--rate", "20000")
        await pipeline.caught_up()

        assert tuple(await pipeline.pool.fetchrow(LOGGED)) == TOTALS
        assert tuple(await pipeline.pool.fetchrow(SUMMARISED)) == TOTALS
        assert await pipeline.pool.fetchval(DUPLICATES) == TOTALS[0]

    assert await pipeline.broken_checks() == []
    assert "all" in await pipeline.command("reconcile")
