"""Fills the log as an installation would have it after a while, but quickly: in SQL, hour by hour into the past.

So many events an hour lie before the present hour, of 2,000 subscriptions of which few are busy; with their identities, in generations of ten
million, and with their summaries, hours of uses and rated usage. Rows are lean: no texts but names, no metadata, half the bytes of those that are
measured. There are no batches, positions and invoices behind them: `reconcile` has nothing to say here.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from benchmarks.traffic import PARTITIONS
from shared.ids import uuid7
from shared.period import HOUR, hour_start, month_start, next_month

ROWS_AN_HOUR = 140_000
"""100 million in 30 days."""
GENERATION = 10_000_000
"""Identities in one generation: what decision 10 advises whoever stores more than that in half a year."""
OPEN_GENERATION = 1_000
OWNERS = 2_000
SIDE_BY_SIDE = 2
"""Connections that write rows at once."""
BYTES_A_ROW = 440
"""With all that a row brings with it: indexes, identity, summaries, hours of uses, rated usage."""
SPARE_BYTES = 6 * 2**30
"""For the WAL, what sorts for an index, and what is measured."""

# Ids are hashes, and here of what costs little: gen_random_uuid() takes five times as long. Ranks are drawn as Zipf's law has them, by its integral: few subscriptions are busy, as in the traffic that is measured.
_ROWS = """INSERT INTO {month} (created_at, id, subscription_id, batch_id, model_id, provider, request_tokens, response_tokens, latency_ms,
               app_id, source, request_id)
           SELECT $1::timestamptz + n * interval '1 hour' / $2::int, md5(n || $5::text)::uuid, ($3::uuid[])[rank], $4, 'model-' || (rank - 1 + (other < 0.2)::int) % 20,
                  'openai', n % 8000, n % 2000, 900, 'crm', '/gw', to_hex(n)
           FROM (SELECT n, random() AS other,
                        power(1 - (1 - power(cardinality($3::uuid[]), -0.2)) * random(), -5)::int AS rank
                 FROM generate_series(0, $2::int - 1) n OFFSET 0) drawn"""
_HOURS = """INSERT INTO usage_summaries (subscription_id, period_type, period_start, model_id, request_count, request_tokens, response_tokens,
                latency_sum_ms, latency_count, latency_histogram)
            SELECT subscription_id, 'hour', date_trunc('hour', created_at, 'UTC'), model_id, count(*), sum(request_tokens), sum(response_tokens),
                   sum(latency_ms), count(*), ARRAY[0, 0, 0, 0, 0, count(*), 0, 0, 0, 0, 0, 0]
            FROM {month} WHERE created_at >= $1 AND created_at < $2 GROUP BY 1, 2, 3, 4
            ON CONFLICT DO NOTHING"""
# As aggregators would have added it: a subscription's usage comes through one partition.
_TOTALS = """INSERT INTO usage_totals AS t (period_type, period_start, model_id, tool_name, partition, request_count, error_count, request_tokens,
                 response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
             SELECT kind, date_trunc(kind, period_start, 'UTC'), model_id, '', abs(hashtext(subscription_id::text)) % $3, sum(request_count), 0,
                    sum(request_tokens), sum(response_tokens), 0, sum(latency_sum_ms), sum(latency_count),
                    ARRAY[0, 0, 0, 0, 0, sum(latency_count), 0, 0, 0, 0, 0, 0]
             FROM usage_summaries, unnest(ARRAY['hour', 'day', 'month']) kind
             WHERE period_type = 'hour' AND period_start >= $1 AND period_start < $2 GROUP BY 1, 2, 3, 5
             ON CONFLICT (period_type, period_start, model_id, tool_name, partition) DO UPDATE SET
                 request_count = t.request_count + excluded.request_count, request_tokens = t.request_tokens + excluded.request_tokens,
                 response_tokens = t.response_tokens + excluded.response_tokens, latency_sum_ms = t.latency_sum_ms + excluded.latency_sum_ms,
                 latency_count = t.latency_count + excluded.latency_count, latency_histogram = add_histograms(t.latency_histogram, excluded.latency_histogram)"""
_USES = """INSERT INTO usage_hours (subscription_id, hour, kind, byok, failed, model_id, tool_name, provider, feature_type, power_level, app_id,
               request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
           SELECT subscription_id, period_start, usage_kind(model_id, '', 'openai', '', 'balanced', false, false, 'crm'), false, false, model_id, '',
                  'openai', '', 'balanced', 'crm', request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count,
                  latency_histogram
           FROM usage_summaries WHERE period_type = 'hour' AND period_start >= $1 AND period_start < $2"""
_RATED = """INSERT INTO rated_usage (subscription_id, hour, model_id, rating_run_id, user_id, billing_mode, requests, request_tokens, response_tokens,
                price_id, multiplier, currency, amount)
            SELECT u.subscription_id, u.period_start, u.model_id, $3, s.user_id, s.billing_mode, u.request_count, u.request_tokens, u.response_tokens,
                   p.id, 1, p.currency, (u.request_tokens * p.input_price_per_1k + u.response_tokens * p.output_price_per_1k) / 1000
            FROM usage_summaries u JOIN subscriptions s ON s.id = u.subscription_id JOIN model_prices p ON p.model_id = u.model_id
            WHERE u.period_type = 'hour' AND u.period_start >= $1 AND u.period_start < $2"""
_LONGER = """INSERT INTO usage_summaries AS s (subscription_id, period_type, period_start, model_id, request_count, request_tokens, response_tokens,
                 latency_sum_ms, latency_count, latency_histogram)
             SELECT subscription_id, $1::text, date_trunc($1, period_start, 'UTC'), model_id, sum(request_count), sum(request_tokens), sum(response_tokens),
                    sum(latency_sum_ms), sum(latency_count), ARRAY[0, 0, 0, 0, 0, sum(latency_count), 0, 0, 0, 0, 0, 0]
             FROM usage_summaries WHERE period_type = 'hour' AND period_start >= $2 AND period_start < $3 GROUP BY 1, 2, 3, 4
             ON CONFLICT (subscription_id, period_type, period_start, model_id, tool_name) DO UPDATE SET
                 request_count = s.request_count + excluded.request_count, request_tokens = s.request_tokens + excluded.request_tokens,
                 response_tokens = s.response_tokens + excluded.response_tokens, latency_sum_ms = s.latency_sum_ms + excluded.latency_sum_ms,
                 latency_count = s.latency_count + excluded.latency_count, latency_histogram = add_histograms(s.latency_histogram, excluded.latency_histogram)"""


@dataclass
class Filled:
    """A database that grows, one size after the other: `rows` of them reach back to `oldest`. The first connection does all but write them."""

    connections: Sequence[asyncpg.Connection]
    owners: Sequence[UUID]
    directory: Path
    say: Callable[[str], None]
    oldest: datetime
    rows: int = 0
    _generation: int = field(default=OPEN_GENERATION)
    _identities: int = 0

    @classmethod
    async def begin(cls, url: str, owners: Sequence[str], directory: Path, say: Callable[[str], None], now: datetime) -> Filled:  # fmt: skip
        """Connect, and leave room for generations before the one that is open."""
        settings = {"maintenance_work_mem": "1GB", "TimeZone": "UTC", "tallystick.totals": "added"}
        connections = [await asyncpg.connect(url, server_settings=settings) for _ in range(SIDE_BY_SIDE)]
        connection = connections[0]
        await connection.execute("DROP TABLE usage_ids_1; DELETE FROM usage_id_generations")
        await connection.execute("SELECT begin_usage_id_generation($1::int::smallint, now())", OPEN_GENERATION)
        return cls(connections, [UUID(owner) for owner in owners[:OWNERS]], directory, say, hour_start(now))

    async def end(self) -> None:
        """Let go of the connections."""
        for connection in self.connections:
            await connection.close()

    @property
    def connection(self) -> asyncpg.Connection:
        return self.connections[0]

    async def grow(self, size: int) -> None:
        """Fill up to so many rows. Raises `SystemExit` where the disk has no room for them."""
        wanted = (size - self.rows) * BYTES_A_ROW + SPARE_BYTES
        free = shutil.disk_usage(self.directory).free
        if free < wanted:
            raise SystemExit(f"{size:,} rows need {wanted / 2**30:.0f} GiB, and {self.directory} has {free / 2**30:.0f} GiB free: make room, or take a smaller --grown")  # fmt: skip
        if size > self.rows:
            start = self.oldest - math.ceil((size - self.rows) / ROWS_AN_HOUR + 1 + size / GENERATION) * HOUR
            months = [await Month.of(self.connection, month) for month in _months(start, self.oldest)]
            while self.rows < size:
                await self._stretch(min(size - self.rows, GENERATION - self._identities))
            for month in months:
                await month.close(self.connection)
        # The aggregator refreshes what changed since the last time: of a month at once it would read for a quarter of an hour, beside what is measured.
        await self.connection.execute("UPDATE llm_usage_refreshes SET begun_at = now() + interval '1 day', whole_at = now()")  # fmt: skip
        await self.connection.execute(
            "VACUUM (ANALYZE) usage_logs, usage_ids, usage_summaries, usage_totals, usage_hours, rated_usage"
        )
        await self.connection.execute("CHECKPOINT")

    async def _stretch(self, count: int) -> None:
        """Fill the hours before the oldest with rows of one generation; in the order of time, as they would have come."""
        hours = [min(ROWS_AN_HOUR, count - first) for first in range(0, count, ROWS_AN_HOUR)][::-1]
        start, end = self.oldest - len(hours) * HOUR, self.oldest
        # Hours that are over are not added to any more, and take no room for that.
        for table in ("usage_summaries", "usage_hours"):
            await self.connection.execute(f"ALTER TABLE {table} SET (fillfactor = 90)")
        await asyncio.gather(*(self._write(start, hours, which) for which in range(SIDE_BY_SIDE)))
        await self._identify(start, end)
        await self.connection.execute(_LONGER, "day", start, end)
        await self.connection.execute(_LONGER, "month", start, end)
        await self.connection.execute(_TOTALS, start, end, PARTITIONS)
        for table in ("usage_summaries", "usage_hours"):
            await self.connection.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")
        self.oldest, self.rows = start, self.rows + count
        self.say(f"filled {self.rows:,} rows")

    async def _write(self, start: datetime, hours: Sequence[int], which: int) -> None:
        """Write the hours that are the turn of one connection, with what is derived from them."""
        connection, names = self.connections[which], {"month": ""}
        for number in range(which, len(hours), SIDE_BY_SIDE):
            hour = start + number * HOUR
            names["month"] = f"usage_logs_{hour:%Y_%m}"
            await connection.execute(
                _ROWS.format(**names), hour, hours[number], self.owners, uuid7(), f"-{self._generation}-{hour}"
            )
            await connection.execute("SELECT brin_summarize_new_values($1)", f"{names['month']}_filled")
            if number == which:  # else each hour is looked for in the whole month: nobody knows that it is in order
                await connection.execute(f"ANALYZE {names['month']} (created_at)")
            await connection.execute(_HOURS.format(**names), hour, hour + HOUR)
            await connection.execute(_USES, hour, hour + HOUR)
            await connection.execute(_RATED, hour, hour + HOUR, uuid7())

    async def _identify(self, start: datetime, end: datetime) -> None:
        """Put the identities into their generation. The index comes after them, with as much room as one that is written all over."""
        name, new = f"usage_ids_{self._generation}", self._generation < OPEN_GENERATION and not self._identities
        if new:
            await self.connection.execute(f"CREATE TABLE {name} (LIKE usage_ids)")
        await self.connection.execute(f"DROP INDEX IF EXISTS {name}_key")
        for month in _months(start, end):
            rows = await self.connection.execute(
                f"INSERT INTO {name} (created_at, id, generation) SELECT created_at, id, $1::int FROM usage_logs_{month:%Y_%m} "  # noqa: S608
                "WHERE created_at >= $2 AND created_at < $3",
                self._generation, start, end,
            )  # fmt: skip
            self._identities += int(rows.rpartition(" ")[2])
        await self.connection.execute(f"CREATE UNIQUE INDEX {name}_key ON {name} (id) WITH (fillfactor = 70)")
        if new:
            await self.connection.execute(
                f"ALTER TABLE usage_ids ATTACH PARTITION {name} FOR VALUES IN ({self._generation})"
            )
            await self.connection.execute(
                "INSERT INTO usage_id_generations (generation, begun_at, closed_at) VALUES ($1, $2, $3)",
                self._generation,
                start,
                end,
            )
        if self._identities >= GENERATION:
            self._generation, self._identities = self._generation - 1, 0


@dataclass(frozen=True)
class Month:
    """A partition of the log that is filled apart from it, without its indexes: `rebuild` are the statements that make those anew.

    Rows that come before others in time would leave the key half empty, where those that came as time went on filled its pages.
    """

    name: str
    start: datetime
    rebuild: Sequence[str]

    @classmethod
    async def of(cls, connection: asyncpg.Connection, start: datetime) -> Month:
        """Take a partition out of the log, made if it is missing."""
        name = await connection.fetchval("SELECT ensure_usage_partition($1)", start)
        await connection.execute(f"ALTER TABLE usage_logs DETACH PARTITION {name}")
        keys = await connection.fetch(
            "SELECT conname AS name, pg_get_constraintdef(oid) AS made FROM pg_constraint WHERE conrelid = $1::text::regclass AND contype IN ('p', 'u')",
            name,
        )
        indexes = await connection.fetch(
            "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS made FROM pg_index i WHERE indrelid = $1::text::regclass "
            "AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)", name
        )  # fmt: skip
        for key in keys:
            await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT {key['name']}")
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        await connection.execute(f"CREATE INDEX {name}_filled ON {name} USING brin (created_at)")
        anew = [f"ALTER TABLE {name} ADD CONSTRAINT {key['name']} {key['made']}" for key in keys]
        return cls(name, start, [*anew, *(index["made"] for index in indexes)])

    async def close(self, connection: asyncpg.Connection) -> None:
        """Index it and put it back."""
        await connection.execute(f"DROP INDEX {self.name}_filled")
        for statement in self.rebuild:
            await connection.execute(statement)
        await connection.execute(
            f"ALTER TABLE usage_logs ATTACH PARTITION {self.name} FOR VALUES FROM ('{self.start.isoformat()}') TO ('{next_month(self.start).isoformat()}')"
        )


def _months(start: datetime, end: datetime) -> list[datetime]:
    """Return the beginnings of the months that [start, end) touches."""
    months = [month_start(start)]
    while (following := next_month(months[-1])) < end:
        months.append(following)
    return months
