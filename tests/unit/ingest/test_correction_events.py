"""Void and amend events: what is accepted as one, and what the published schemas say of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.ingest.acceptance import Reason, Rejected
from shared.contracts import UsageEvent
from shared.corrections import AMEND_TYPE, VOID_TYPE, AmendEvent, VoidEvent, usage_amend_schema, usage_void_schema
from shared.ids import event_key, reversal_key
from tests.unit.ingest.events import SUBSCRIPTION, amend, binary, document, judge, structured, void

VALIDATORS = {
    VOID_TYPE: Draft202012Validator(usage_void_schema()),
    AMEND_TYPE: Draft202012Validator(usage_amend_schema()),
}


def test_a_void_names_an_event_and_nobody() -> None:
    found = judge(void("req-1"))

    assert isinstance(found, VoidEvent)
    assert (found.id, found.corrects, found.subject) == ("void-1", "req-1", None)
    assert found.time == datetime(2026, 11, 21, 11, 59, 30, 123456, UTC)


def test_an_amendment_is_a_whole_usage_event() -> None:
    found = judge(amend("req-1", data={"request_tokens": 3.0, "colour": "red", "metadata": {"a": 1}}))

    assert isinstance(found, AmendEvent)
    assert (found.corrects, found.subject, found.data.model, found.data.request_tokens) == (
        "req-1", SUBSCRIPTION, "gpt-4o", 3,
    )  # fmt: skip
    assert found.data.metadata == {"colour": "red", "a": 1}


def test_both_come_in_binary_mode_too() -> None:
    value, headers = binary(type=AMEND_TYPE, data={"amends": "x"})
    assert isinstance(judge(value, headers), AmendEvent)
    value, headers = binary(
        type=VOID_TYPE, data={"model": ..., "request_tokens": ..., "response_tokens": ..., "voids": "x"}
    )
    assert isinstance(judge(value, headers), VoidEvent)


REFUSED: list[tuple[Reason, bytes, str]] = [
    (Reason.MISSING_FIELD, structured(type=VOID_TYPE, data={"model": ..., "request_tokens": ..., "response_tokens": ...}), "voids"),
    (Reason.MISSING_FIELD, structured(type=AMEND_TYPE), "amends"),
    (Reason.MISSING_FIELD, amend("x", data={"model": ...}), "data needs a model or a tool_name"),
    (Reason.NOBODY_NAMED, amend("x", subject=...), "who used it?"),
    (Reason.INVALID_VALUE, structured(type=VOID_TYPE, data={"voids": "x"}), "unknown field"),
    (Reason.INVALID_VALUE, amend("x", data={"request_tokens": -1}), "$.data.request_tokens"),
    (Reason.INVALID_VALUE, amend("x", data={"cached_tokens": 11}), "exceeds"),
    (Reason.INVALID_VALUE, void(""), "voids"),
    (Reason.INVALID_VALUE, void("x", id="x"), "cannot correct itself"),
    (Reason.INVALID_VALUE, amend("x", id="x"), "cannot correct itself"),
    (Reason.TOO_OLD, void("x", time="2020-01-01T00:00:00Z"), "start of the late window"),
    (Reason.TOO_FAR_AHEAD, amend("x", time="2027-01-01T00:00:00Z"), "gateway's clock"),
    (Reason.NUL_CHARACTER, void("a\0b"), "NUL"),
    (Reason.METADATA_TOO_LARGE, amend("x", data={"metadata": {str(n): n for n in range(33)}}), "33 keys"),
    (Reason.UNKNOWN_TYPE, structured(type="tallystick.usage.void.v2"), VOID_TYPE),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "value", "detail"), REFUSED, ids=[f"{r}-{n}" for n, (r, *_) in enumerate(REFUSED)])
def test_what_is_refused_is_told_why(reason: Reason, value: bytes, detail: str) -> None:
    found = judge(value)

    assert isinstance(found, Rejected)
    assert found.reason == reason
    assert detail in found.detail


@pytest.mark.parametrize(
    "value", [void("x"), amend("x"), amend("x", data={"other": 1}), void("x", subject=SUBSCRIPTION)]
)
def test_the_schemas_admit_what_is_accepted(value: bytes) -> None:
    event: dict[str, Any] = json.loads(value)
    assert not isinstance(judge(value), Rejected)
    assert list(VALIDATORS[event["type"]].iter_errors(event)) == []


@pytest.mark.parametrize(
    "value", [value for reason, value, _ in REFUSED if reason in {Reason.MISSING_FIELD, Reason.NOBODY_NAMED}]
)
def test_the_schemas_refuse_what_lacks_something(value: bytes) -> None:
    event: dict[str, Any] = json.loads(value)
    assert list(VALIDATORS[event["type"]].iter_errors(event)) != []


def test_the_schemas_are_schemas() -> None:
    for schema in (usage_void_schema(), usage_amend_schema()):
        Draft202012Validator.check_schema(schema)


def test_a_usage_event_is_neither() -> None:
    assert isinstance(judge(structured(data={"amends": "x", "voids": "y"})), UsageEvent), "unknown attributes of data"


def test_a_reversal_has_one_id_that_no_event_has() -> None:
    key = event_key("s", "a")

    assert reversal_key(key) == reversal_key(key)
    assert len({key, reversal_key(key), reversal_key(event_key("s", "b")), event_key("s", "reversal")}) == 4
    assert document()["type"] not in VALIDATORS
