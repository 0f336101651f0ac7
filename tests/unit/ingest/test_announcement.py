"""What a batch announces: everything, once, in messages that a broker takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.announcement import MESSAGE_BYTES, _shares_by_subscription, announce_recorded
from services.ingest.deltas import aggregate
from services.ingest.rows import UsageRow
from shared.contracts import Origin, UsageDelta, decode_recorded
from shared.ids import event_key, uuid7, uuid_of_bytes

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
ORIGIN = Origin(cluster="main", topic="usage.events", partition=3, epoch=0, first_offset=0, next_offset=10)


def row(number: int, *, subscription: int, model: str) -> UsageRow:
    empty: dict[str, None] = dict.fromkeys(UsageRow._fields)
    known = {
        "created_at": AT + timedelta(seconds=number % 3_000),
        "id": uuid_of_bytes(event_key("test", str(number))),
        "subscription_id": UUID(int=subscription),
        "model_id": model,
        "provider": "openai",
        "request_tokens": number,
        "response_tokens": 1,
        "cached_tokens": 0,
        "status_code": 200,
        "power_level": "balanced",
        "byok": False,
    }
    return UsageRow(**{**empty, **known})  # type: ignore[arg-type]


def test_a_batch_that_stored_nothing_announces_nothing() -> None:
    assert announce_recorded(uuid7(), ORIGIN, aggregate([]), AT) == []


def test_a_large_batch_is_announced_whole_in_messages_that_fit_and_keep_subscriptions_together() -> None:
    rows = [row(n, subscription=n % 700, model=f"model-{n % 13}-{'x' * 80}") for n in range(9_100)]
    messages = [decode_recorded(m.value or b"") for m in announce_recorded(uuid7(), ORIGIN, aggregate(rows), AT)]
    assert len(messages) > 1
    assert [m.part for m in messages] == list(range(len(messages)))
    assert {m.parts for m in messages} == {len(messages)}
    assert sum(m.event_count for m in messages) == len(rows)
    assert sum(d.request_tokens for m in messages for d in m.deltas) == sum(r.request_tokens for r in rows)
    homes: dict[UUID, set[int]] = {}
    for message in messages:
        for delta in message.deltas:
            homes.setdefault(delta.subscription_id, set()).add(message.part)
    assert all(len(parts) == 1 for parts in homes.values())


def test_one_subscription_that_fills_more_than_a_message_is_cut() -> None:
    rows = [row(n, subscription=1, model=f"model-{n}-{'x' * 200}") for n in range(4_000)]
    messages = announce_recorded(uuid7(), ORIGIN, aggregate(rows), AT)
    assert max(len(m.value or b"") for m in messages) <= MESSAGE_BYTES


@given(st.lists(st.integers(0, 6)), st.integers(1, 9))
def test_shares_are_the_whole_in_order(subscriptions: list[int], parts: int) -> None:
    deltas = [UsageDelta(subscription_id=UUID(int=s), hour=AT) for s in sorted(subscriptions)]
    shares = _shares_by_subscription(deltas, parts)
    assert len(shares) == parts
    assert [delta for share in shares for delta in share] == deltas
