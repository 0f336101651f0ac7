"""No bytes make acceptance raise, and what it accepts can be stored."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.acceptance import Rejected
from shared.contracts import UsageEvent
from shared.corrections import AmendEvent, VoidEvent
from tests.unit.ingest.events import judge, structured
from tests.unit.ingest.facts import damaged, json_values, row_of, texts, valid_corrections, valid_documents

headers = st.lists(
    st.tuples(
        st.sampled_from(
            ["ce_id", "ce_specversion", "ce_time", "ce_type", "ce_source", "ce_subject", "ce_data", "content-type", "x"]
        ),
        st.none() | st.binary(max_size=30) | st.sampled_from([b"1.0", b"tallystick.usage.v1", b"2026-11-21T11:59:30Z"]),
    ),
    max_size=8,
)


def judged(value: bytes | None, record_headers: Any = ()) -> UsageEvent | VoidEvent | AmendEvent | Rejected:
    found = judge(value, record_headers)
    assert isinstance(found, (UsageEvent, VoidEvent, AmendEvent, Rejected))
    if isinstance(found, Rejected):
        assert found.detail
        assert len(found.detail) < 1_000
        assert "\0" not in found.detail
        found.detail.encode("utf-8")
    elif isinstance(found, VoidEvent):
        assert "\0" not in found.id + found.source + found.corrects
    else:
        assert_storable(found)
    return found


def assert_storable(event: UsageEvent | AmendEvent) -> None:
    row = row_of(event)
    for name, content in row._asdict().items():
        if isinstance(content, str):
            assert "\0" not in content, name
            content.encode("utf-8")
    assert 0 <= row.cached_tokens <= row.request_tokens < 2**53
    assert row.created_at.tzinfo is UTC
    assert row.model_id or row.tool_name
    if row.metadata is not None:
        assert "\\u0000" not in row.metadata.replace("\\\\", "")
        json.loads(row.metadata)


@settings(max_examples=1_500, deadline=None)
@given(st.none() | st.binary(max_size=200), headers)
def test_any_bytes_are_an_event_or_a_reason(value: bytes | None, record_headers: Any) -> None:
    judged(value, record_headers)


@settings(max_examples=1_500, deadline=None)
@given(damaged())
def test_a_damaged_event_is_an_event_or_a_reason(value: bytes) -> None:
    judged(value)


@settings(max_examples=600, deadline=None)
@given(
    st.dictionaries(
        texts | st.sampled_from(["specversion", "id", "type", "data", "time", "source"]), json_values, max_size=6
    ),
    headers,
)
def test_any_json_is_an_event_or_a_reason(document: dict[str, Any], record_headers: Any) -> None:
    judged(json.dumps(document).encode(), record_headers)
    judged(structured(**{name: content for name, content in document.items() if name != "data"}))
    judged(structured(data=document), record_headers)


@settings(max_examples=700, deadline=None)
@given(valid_documents(), st.booleans())
def test_a_valid_event_is_accepted_and_storable_whatever_is_in_it(document: dict[str, Any], ascii_only: bool) -> None:
    found = judged(json.dumps(document, ensure_ascii=ascii_only).encode())

    assert isinstance(found, UsageEvent), found
    assert (found.id, found.source, found.data.model) == (document["id"], document["source"], document["data"]["model"])


@settings(max_examples=500, deadline=None)
@given(valid_corrections())
def test_a_valid_correction_is_accepted_and_storable_whatever_is_in_it(document: dict[str, Any]) -> None:
    found = judged(json.dumps(document).encode())

    assert isinstance(found, (VoidEvent, AmendEvent)), found
    assert found.corrects == document["data"].get("voids", document["data"].get("amends"))
    assert found.type == document["type"]
