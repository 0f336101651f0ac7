"""Facts for the aggregator's tests: deltas and messages as ingest makes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from aiokafka import ConsumerRecord
from hypothesis import strategies as st

from shared.contracts import LATENCY_BUCKET_COUNT, USAGE_RECORDED, Origin, ProviderDelta, UsageDelta, UsageRecorded
from shared.ids import uuid7

NOON = datetime(2026, 11, 14, 12, tzinfo=UTC)
ALICE, BOB = UUID(int=1), UUID(int=2**127)


def delta(
    subscription: UUID = ALICE, *, hour: datetime = NOON, requests: int = 1, tokens: int = 0, **fields: Any
) -> UsageDelta:
    """Return one delta; `tokens` are request tokens. Model gpt-4o unless told otherwise."""
    facts = {"model_id": "gpt-4o", "provider": "openai", **fields}
    return UsageDelta(
        subscription_id=subscription,
        hour=hour,
        requests=requests,
        request_tokens=tokens,
        first_event_at=hour + timedelta(minutes=1),
        last_event_at=hour + timedelta(minutes=2),
        **facts,
    )


def recorded(*deltas: UsageDelta, providers: Sequence[ProviderDelta] = (), **fields: Any) -> UsageRecorded:
    """Return one message with a batch id of its own."""
    facts = {"batch_id": uuid7(), "part": 0, "parts": 1, "recorded_at": NOON, "by_app": True, **fields}
    return UsageRecorded(
        origin=Origin("main", "usage.events", 0, 0, 0, 1),
        event_count=sum(d.requests for d in deltas),
        deltas=list(deltas),
        providers=list(providers),
        **facts,
    )


def record(value: bytes | None, *, partition: int = 0, offset: int = 0) -> ConsumerRecord[bytes, bytes]:
    """Return a record of usage.recorded as aiokafka hands it over."""
    return ConsumerRecord(
        topic=USAGE_RECORDED, partition=partition, offset=offset, timestamp=0, timestamp_type=0, key=None, value=value,
        checksum=None, serialized_key_size=-1, serialized_value_size=-1 if value is None else len(value), headers=(),
    )  # fmt: skip


_counts = st.integers(-10_000, 10_000)  # what is taken back is negative
_histograms = st.lists(st.integers(-50, 50), min_size=LATENCY_BUCKET_COUNT, max_size=LATENCY_BUCKET_COUNT)
_hours = st.integers(-2_000, 100).map(lambda hours: NOON + timedelta(hours=hours))


@st.composite
def deltas(draw: st.DrawFn) -> UsageDelta:
    """Any delta, of few subscriptions, models and hours, so that keys meet."""
    histogram = draw(st.one_of(st.just([]), _histograms))
    tool = draw(st.booleans())
    hour = draw(st.one_of(st.just(NOON), _hours))
    return UsageDelta(
        subscription_id=draw(st.sampled_from([ALICE, BOB, UUID(int=7)])),
        hour=hour,
        api_key_id=draw(st.sampled_from([None, UUID(int=70), UUID(int=71)])),
        model_id="" if tool else draw(st.sampled_from(["gpt-4o", "claude"])),
        tool_name="search" if tool else "",
        provider=draw(st.sampled_from(["", "openai"])),
        power_level=draw(st.sampled_from(["balanced", "eco"])),
        byok=draw(st.booleans()),
        status_class=draw(st.sampled_from([2, 4, 5])),
        app_id=draw(st.sampled_from(["", "crm", "shop"])),
        requests=draw(_counts),
        errors=draw(_counts),
        request_tokens=draw(st.integers(0, 2**60)),
        response_tokens=draw(_counts),
        cached_tokens=draw(_counts),
        latency_sum_ms=draw(_counts) if histogram else 0,
        latency_count=sum(histogram),
        latency_histogram=histogram,
        last_event_at=hour + timedelta(seconds=draw(st.integers(0, 3599))),
    )


@st.composite
def provider_deltas(draw: st.DrawFn) -> ProviderDelta:
    """Any observation that a batch can make of a provider."""
    outcomes = draw(st.lists(st.booleans(), min_size=1, max_size=6))
    trailing = next((i for i, succeeded in enumerate(reversed(outcomes)) if succeeded), len(outcomes))
    at = NOON + timedelta(seconds=draw(st.integers(0, 59)))
    return ProviderDelta(
        provider=draw(st.sampled_from(["openai", "anthropic"])),
        minute=NOON,
        requests=len(outcomes),
        errors=outcomes.count(False),
        latency_histogram=draw(st.one_of(st.just([]), _histograms)),
        last_success_at=at if True in outcomes else None,
        last_failure_at=at if False in outcomes else None,
        trailing_failures=trailing,
    )
