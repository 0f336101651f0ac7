"""A usage record, and how two deliveries of one event are compared."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from services.ingest.acceptance import in_utc
from services.ingest.rows import COLUMNS, CONTENT, UsageRow, differing_columns, usage_row
from shared.contracts import UsageEvent
from shared.ids import event_id, event_key
from tests.unit.ingest.events import judge, structured
from tests.unit.ingest.facts import ALICE, BATCH, BOB, as_stored, row_of, some_row


def event(**data: object) -> UsageEvent:
    found = judge(structured(data=data))
    assert isinstance(found, UsageEvent), found
    return found


def test_a_row_is_the_event_under_its_own_id() -> None:
    row = usage_row(event(power_level=None), event_key("/gateways/eu-1", "req-1"), ALICE, BOB, BATCH)

    assert row.id == event_id("/gateways/eu-1", "req-1")
    assert (row.subscription_id, row.api_key_id, row.batch_id) == (ALICE, BOB, BATCH)
    assert (row.source, row.request_id, row.model_id) == ("/gateways/eu-1", "req-1", "gpt-4o")
    assert (row.power_level, row.metadata, row.status_code) == ("balanced", None, 200)
    assert set(CONTENT) | {"batch_id", "metadata"} == set(COLUMNS)


def test_times_are_stored_in_utc() -> None:
    local = datetime(2026, 11, 21, 13, tzinfo=timezone(timedelta(hours=2)))

    assert in_utc(local) == local
    assert in_utc(local).tzinfo is UTC
    assert in_utc(in_utc(local)) is in_utc(local) or in_utc(local).tzinfo is UTC


def test_the_same_event_in_another_batch_differs_in_nothing() -> None:
    row = row_of(event(metadata={"a": 1}))

    assert differing_columns(row, dict(as_stored(row, batch_id=UUID(int=9), ingested_at=None))) == []


@pytest.mark.parametrize(
    ("column", "content"),
    [("request_tokens", 11), ("model_id", "o"), ("byok", True), ("end_user", "x"), ("metadata", "{}")],
)
def test_another_content_is_named(column: str, content: object) -> None:
    row = some_row(random.Random(1), byok=False, request_tokens=1)

    assert differing_columns(row, dict(as_stored(row, **{column: content}))) == [column]


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ('{"a":1e23}', '{"a": 100000000000000000000000}'),
        ('{"a":1.5e300}', '{"a": 15%s}' % ("0" * 299)),
        ('{"a":-0.0}', '{"a": 0.0}'),
        ('{"a":0.1,"b":[1,"x"]}', '{"b": [1, "x"], "a": 0.1}'),
        ('{"a":123456789012345678901234567890}', '{"a": 123456789012345678901234567890}'),
    ],
)
def test_metadata_is_the_same_however_jsonb_writes_it(sent: str, stored: str) -> None:
    row = some_row(random.Random(1), metadata=sent)

    assert differing_columns(row, dict(as_stored(row, metadata=stored))) == []


@pytest.mark.parametrize("stored", [None, "{}", '{"a": 2}', '{"a": "1"}', '{"a": 1.0000000000000000000001}'])
def test_other_metadata_is_another_content(stored: str | None) -> None:
    row: UsageRow = some_row(random.Random(1), metadata='{"a":1}')

    assert differing_columns(row, dict(as_stored(row, metadata=stored))) == ["metadata"]
