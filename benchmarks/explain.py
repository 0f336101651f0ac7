"""Asking why: `explain` of one invoice line of many events, and `reprice --dry-run` over all of them, on a real Postgres.

    python -m benchmarks.explain [--events 1000000] [--neighbours 4] [--rounds 3]

One customer has `events` events of one model in October, in batches of 5,000 as ingest writes them, each rated by a run of its own; as many
others have each as much in the same batches, so that the line's events do not lie by themselves. Asked for: a line of 1,000,000 events explained in
2 s, and a reprice shown at 1,000,000 events a second. What is explained must hold, and the difference of the reprice must be the right one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import structlog

from deploy.local.stack import running_stack
from deploy.migrate import migrate
from services.billing.invoices.closing import close_period
from services.billing.provenance import explain_line
from services.billing.rating.price_file import NewPrice
from services.billing.reprice import preview
from shared.clock import FixedClock
from shared.period import Period
from shared.postgres import connect, create_pool

OCTOBER = Period.parse_month("2026-10")
CLOSED_AT = datetime(2026, 11, 3, tzinfo=UTC)
BATCH = 5_000
EXPLAIN_SECONDS, REPRICE_EVENTS_PER_SECOND = 2.0, 1_000_000

# Events are spread evenly over the month; the n-th of a customer is in batch n * customers / BATCH, so a batch has events of all of them.
FACTS = (
    "INSERT INTO plans (id, name, amount, currency, interval) VALUES ('metered', 'Metered', 0, 'USD', 'month')",
    "INSERT INTO users (id, email) SELECT md5('u' || c)::uuid, 'customer' || c || '@example.com' FROM generate_series(1, {customers}) c",
    """INSERT INTO subscriptions (id, user_id, plan_id, status, billing_mode, currency, amount, quota_requests, quota_tokens, quota_period_start,
                                  created_at)
       SELECT md5('s' || c)::uuid, md5('u' || c)::uuid, 'metered', 'active', 'postpaid', 'USD', 0, NULL, NULL, '2026-01-01Z', '2026-01-01Z'
       FROM generate_series(1, {customers}) c""",
    "INSERT INTO models (id, name, provider) VALUES ('gpt-4o', 'gpt-4o', 'openai')",
    """INSERT INTO model_prices (id, model_id, valid_from, currency, input_price_per_1k, output_price_per_1k)
       VALUES (md5('price')::uuid, 'gpt-4o', '2026-01-01Z', 'USD', 0.0025, 0.01)""",
    "SELECT ensure_usage_partition('2026-10-01Z')",
    """INSERT INTO usage_logs (created_at, id, subscription_id, batch_id, model_id, provider, request_tokens, response_tokens, status_code, source,
                               request_id)
       SELECT '2026-10-01Z'::timestamptz + (n - 1) * (interval '30 days' / {events}), gen_random_uuid(), md5('s' || c)::uuid,
              md5('b' || (n * {customers} / {batch}))::uuid, 'gpt-4o', 'openai', 100 + n % 1000, n % 300, 200, '/benchmark', n || '-' || c
       FROM generate_series(1, {events}) n, generate_series(1, {customers}) c""",
    """INSERT INTO usage_batches (batch_id, kind, cluster, topic, partition, first_offset, next_offset, inserted, duplicates, quarantined, held,
                                  gaps, message_count)
       SELECT batch_id, 'kafka', 'main', 'usage.events', 0, sum(count(*)) OVER (ORDER BY min(created_at)) - count(*),
              sum(count(*)) OVER (ORDER BY min(created_at)), count(*), 0, 0, 0, 0, 1 FROM usage_logs GROUP BY batch_id""",
    """INSERT INTO rating_runs (id, cluster, topic, partition, epoch, first_offset, next_offset)
       SELECT batch_id, 'main', 'usage.recorded', 0, 0, row_number() OVER (ORDER BY first_offset) - 1, row_number() OVER (ORDER BY first_offset)
       FROM usage_batches""",
    "INSERT INTO billing_inbox (batch_id, part, rating_run_id, event_count) SELECT batch_id, 0, batch_id, inserted FROM usage_batches",
    """INSERT INTO rated_usage (subscription_id, hour, model_id, rating_run_id, user_id, billing_mode, requests, request_tokens, response_tokens,
                                price_id, multiplier, currency, amount, first_event_at, last_event_at)
       SELECT l.subscription_id, date_trunc('hour', l.created_at, 'UTC'), 'gpt-4o', l.batch_id, s.user_id, 'postpaid', count(*),
              sum(l.request_tokens), sum(l.response_tokens), md5('price')::uuid, 1, 'USD',
              sum(l.request_tokens) * 0.0000025 + sum(l.response_tokens) * 0.00001, min(l.created_at), max(l.created_at)
       FROM usage_logs l JOIN subscriptions s ON s.id = l.subscription_id GROUP BY 1, 2, 4, 5""",
)  # fmt: skip


async def measure(url: str, events: int, customers: int, rounds: int) -> None:
    """Store the facts, close the month, then ask. Raises `AssertionError` for a wrong answer."""
    await migrate(url)
    owner = await connect(url)
    for statement in FACTS:
        await owner.execute(statement.format(events=events, customers=customers, batch=BATCH), timeout=3600)
    await owner.execute("VACUUM ANALYZE", timeout=3600)
    pool = await create_pool(url)
    closing = await close_period(pool, OCTOBER, clock=FixedClock(CLOSED_AT), grace=timedelta(0))
    assert not closing.failures, closing.failures[:3]
    await pool.close()
    line = await owner.fetchval(
        "SELECT id FROM invoice_lines WHERE component = 'input' ORDER BY exact_amount DESC LIMIT 1"
    )

    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        found = await explain_line(owner, line)
        seconds.append(time.perf_counter() - began)
        assert (found.problems, found.event_count) == ([], events), found.problems
    median = statistics.median(seconds)
    _say(f"explain a line of {events:,} events", f"{median:.2f} s", median <= EXPLAIN_SECONDS, f"{EXPLAIN_SECONDS:g} s")

    dearer = NewPrice("model", "gpt-4o", "USD", Decimal("0.005"), Decimal("0.02"))
    used = await owner.fetchval("SELECT sum(amount) FROM rated_usage")
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        seen = await preview(owner, OCTOBER, [dearer])
        rates.append(events * customers / (time.perf_counter() - began))
        assert sum(change.difference for change in seen.changes) == used
    rate = statistics.median(rates)
    _say(
        f"reprice --dry-run over {events * customers:,} events of {customers} customers",
        f"{rate:,.0f} events/s",
        rate >= REPRICE_EVENTS_PER_SECOND,
        f"{REPRICE_EVENTS_PER_SECOND:,} events/s",
    )
    await owner.close()


def _say(what: str, figure: str, holds: bool, asked: str) -> None:
    verdict = "holds" if holds else "does NOT hold"
    print(f"{what}: {figure} (median); asked for {asked}: {verdict} ({os.cpu_count()} cores, {platform.machine()})")
    sys.stdout.flush()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=1_000_000, help="events behind the line that is explained")
    parser.add_argument("--neighbours", type=int, default=4, help="other customers with as many events each")
    parser.add_argument("--rounds", type=int, default=3, help="how often each question is asked")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with running_stack(servers=("postgres",)) as running:
        asyncio.run(
            measure(running.stack.servers[0].address, arguments.events, arguments.neighbours + 1, arguments.rounds)
        )


if __name__ == "__main__":
    main()
