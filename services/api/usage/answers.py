"""What questions about usage are answered with."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import Field

from services.aggregator.health import percentiles
from services.api.fields import Answer, Exact, Instant
from services.api.usage.buckets import Bucket

Latency = float | None


class Point(Answer):
    """Usage of one bucket, or of one group in it."""

    bucket: str = Field(description="The hour, day or month in the time zone.", examples=["2026-11-21"])
    start: Instant = Field(description="First moment that it holds, on a UTC hour.")
    end: Instant = Field(description="First moment that it does not hold any more.")
    group: str | None = Field(
        description="What it is grouped by; null without grouping, and for events that do not say."
    )
    request_count: int
    error_count: int
    request_tokens: int
    response_tokens: int
    cached_tokens: int
    total_tokens: int
    avg_latency_ms: Latency = Field(description="Of the requests that reported a latency; null where none did.")
    p50_latency_ms: int | None = Field(description="Upper bound of the histogram bucket that holds it.")
    p95_latency_ms: int | None
    p99_latency_ms: int | None


class Series(Answer):
    """Usage by hour, day or month. Buckets without usage are left out."""

    step: str
    time_zone: str
    start: Instant = Field(description="`from`, on the UTC hour at or before it.")
    end: Instant = Field(description="`to`, on the UTC hour at or after it.")
    group_by: str | None
    points: list[Point]


class UsageGroup(Answer):
    """Usage of a model, key, … in one currency."""

    group: str | None = Field(description="What it is grouped by; null for events that do not say.")
    currency: str
    request_count: int
    success_count: int
    error_count: int
    byok_count: int = Field(description="Requests on a provider key of the tenant's own.")
    unrated_count: int = Field(description="Requests that have no price yet: `total_cost` lacks them.")
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int
    total_cost: Exact | None = Field(description="Exact, unrounded; null where nothing has a price.")
    avg_latency_ms: Latency = Field(description="Null where it is not known: grouped by feature or power level.")
    success_rate: float | None


class Analytics(Answer):
    """Usage of the last days, by group; the sum of all groups by currency."""

    days: int
    group_by: str
    time_zone: str
    start: Instant
    end: Instant
    items: list[UsageGroup]
    totals: list[UsageGroup]


class Event(Answer):
    """A usage event as it is in the log."""

    id: UUID
    created_at: Instant = Field(description="When it was used.")
    ingested_at: Instant = Field(description="When it was stored.")
    subscription_id: UUID
    api_key_id: UUID | None
    source: str
    request_id: str
    model_id: str | None
    tool_name: str | None
    provider: str | None
    request_tokens: int
    response_tokens: int
    cached_tokens: int
    total_tokens: int
    tokens_returned: int | None
    latency_ms: int | None
    status_code: int
    error_message: str | None
    power_level: str
    byok: bool
    feature_type: str | None
    library_id: str | None
    app_id: str | None
    session_id: str | None
    end_user: str | None
    quantity: int = Field(description="1: a request; -1: takes the one back that `corrects` names.")
    corrects: UUID | None


def point_of(row: Mapping[str, Any], bucket: Bucket) -> Point:
    """Return what a row of a series says. Not validated: there may be a thousand of them, and they are ours."""
    p50, p95, p99 = percentiles(row["histogram"], (50, 95, 99))
    return Point.model_construct(
        bucket=bucket.label,
        start=bucket.period.start,
        end=bucket.period.end,
        group=row["name"],
        request_count=row["request_count"],
        error_count=row["error_count"],
        request_tokens=row["request_tokens"],
        response_tokens=row["response_tokens"],
        cached_tokens=row["cached_tokens"],
        total_tokens=row["request_tokens"] + row["response_tokens"],
        avg_latency_ms=_average(row["latency_sum_ms"], row["latency_count"]),
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
    )


def group_of(row: Mapping[str, Any]) -> UsageGroup:
    """Return what a row of analytics says."""
    requests, errors = row["request_count"], row["error_count"]
    return UsageGroup(
        group=row["name"],
        currency=row["currency"],
        request_count=requests,
        success_count=requests - errors,
        error_count=errors,
        byok_count=row["byok_count"],
        unrated_count=row["unrated_count"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cached_tokens=row["cached_tokens"],
        total_tokens=row["prompt_tokens"] + row["completion_tokens"],
        total_cost=row["total_cost"],
        avg_latency_ms=_average(row["latency_sum_ms"], row["latency_count"]),
        success_rate=round((requests - errors) / requests, 4) if requests > 0 else None,
    )


def totals_of(rows: list[dict[str, Any]]) -> list[UsageGroup]:
    """Return the sum over the rows of each currency."""
    return [
        group_of({"name": None, "currency": currency, **_sums([row for row in rows if row["currency"] == currency])})
        for currency in sorted({row["currency"] for row in rows})
    ]


def _sums(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counted = [name for name in rows[0] if name not in ("name", "currency")]
    return {name: _sum([row[name] for row in rows if row[name] is not None]) for name in counted}


def _sum(values: list[Any]) -> int | Decimal | None:
    return sum(values) if values else None


def _average(sum_ms: int | None, count: int | None) -> float | None:
    return round(sum_ms / count, 3) if count and count > 0 and sum_ms is not None else None
