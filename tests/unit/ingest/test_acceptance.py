"""What ingest accepts, and what it tells a person about the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.ingest.acceptance import Limits, Reason, Rejected
from shared.contracts import MAX_COUNT, UsageEvent
from tests.unit.ingest.events import NOW, SUBSCRIPTION, Headers, binary, judge, structured

KEY = "019a2f70-0000-7000-8000-000000000001"


def accepted(value: bytes, headers: Headers = ()) -> UsageEvent:
    found = judge(value, headers)
    assert isinstance(found, UsageEvent), found
    return found


def refused(value: bytes | None, headers: Headers = (), *, limits: Limits | None = None) -> tuple[str, str]:
    found = judge(value, headers, limits=limits)
    assert isinstance(found, Rejected), found
    return found.reason, found.detail


def nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels - 1):
        inner = [inner]
    return inner


# --- one for each reason that acceptance gives (the others are the database's: tests/integration) -----------------------

REFUSED: list[tuple[Reason, bytes | None, str]] = [
    (Reason.TOMBSTONE, None, "the record has no value"),
    (Reason.TOO_LARGE, structured(data={"error_message": "x" * 300_000}), "262144 are allowed; send less metadata"),
    (Reason.NOT_UTF8, structured()[:-2] + b"\xff}}", "the text of the value is not UTF-8 (byte"),
    (Reason.NOT_JSON, b"", "the value is empty"),
    (Reason.NOT_JSON, b"id=5", "the value is not JSON"),
    (Reason.NOT_JSON, structured()[:-1], "the value is not JSON"),
    (Reason.NOT_JSON, b"[]", "the value is a JSON array, not an object with a CloudEvents envelope"),
    (Reason.NOT_JSON, b"7", "the value is a JSON number"),
    (Reason.MISSING_FIELD, b"{}", "the CloudEvents attribute 'specversion' is missing"),
    (Reason.MISSING_FIELD, structured(id=...), "missing required field `id`"),
    (Reason.MISSING_FIELD, structured(time=...), "missing required field `time`"),
    (Reason.MISSING_FIELD, structured(data_base64="e30=").replace(b'"data":', b'"datum":'), "not in 'data_base64'"),
    (Reason.MISSING_FIELD, structured(data={"model": None}), "data needs a model or a tool_name"),
    (Reason.INVALID_VALUE, structured(data={"request_tokens": -1}), "Expected `int` >= 0 - at `$.data.request_tokens`"),
    (Reason.INVALID_VALUE, structured(data={"cached_tokens": 11}), "data.cached_tokens 11 exceeds data.request_tokens 10"),
    (Reason.INVALID_VALUE, structured(source=""), "at `$.source`"),
    (Reason.INVALID_VALUE, structured(id=7), "Expected `str`, got `int` - at `$.id`"),
    (Reason.NUL_CHARACTER, structured(data={"end_user": "a\0b"}), "the NUL character (\\u0000), which Postgres cannot store"),
    (Reason.UNKNOWN_VERSION, structured(specversion="0.3"), "specversion '0.3' is not known here; send CloudEvents 1.0"),
    (Reason.UNKNOWN_TYPE, structured(type="com.example"), "type 'com.example' is not known here; usage events have type tallystick.usage.v1"),
    (Reason.NOBODY_NAMED, structured(subject=...), "give a subject (subscription id), data.api_key_id or data.api_key_hash"),
    (Reason.METADATA_TOO_LARGE, structured(data={"metadata": {str(i): i for i in range(33)}}), "metadata has 33 keys, 32 are allowed"),
    (Reason.METADATA_TOO_LARGE, structured(data={"metadata": {"a": "x" * 4090}}), "4096 are allowed"),
    (Reason.METADATA_TOO_LARGE, structured(data={"metadata": {"a": nested(16)}}), "nested more than 16 levels deep"),
    (Reason.TOO_OLD, structured(time="2026-10-17T11:59:59Z"), "before 2026-10-17T12:00:00+00:00, the start of the late window"),
    (Reason.TOO_FAR_AHEAD, structured(time="2026-11-21T12:05:01Z"), "after 2026-11-21T12:05:00+00:00; check the gateway's clock"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "value", "detail"), REFUSED, ids=[f"{reason}-{n}" for n, (reason, *_) in enumerate(REFUSED)]
)
def test_what_is_refused_is_told_why_in_words(reason: Reason, value: bytes | None, detail: str) -> None:
    found, said = refused(value)

    assert found == reason
    assert detail in said


def test_each_reason_of_acceptance_has_a_test() -> None:
    elsewhere = {
        Reason.KEY_MISMATCH, Reason.CONFLICT, Reason.REFUSED_BY_DATABASE, Reason.ALREADY_VOIDED, Reason.NOT_VOIDABLE,
    }  # fmt: skip

    assert {reason for reason, *_ in REFUSED} == set(Reason) - elsewhere


# --- accepted ---------------------------------------------------------------------------------------------------------


def test_the_least_that_an_event_needs() -> None:
    event = accepted(structured(subject=..., data={"model": ..., "tool_name": "search", "request_tokens": ..., "api_key_hash": "h"}))  # fmt: skip

    assert (event.data.status_code, event.data.request_tokens, event.data.byok) == (200, 0, False)
    assert event.data.metadata is None


@pytest.mark.parametrize("named", [{"api_key_id": KEY}, {"api_key_hash": "h"}])
def test_a_key_names_who_used_it_as_a_subject_does(named: dict[str, str]) -> None:
    assert accepted(structured(subject=..., data=named)).subject is None
    assert accepted(structured(subject="", data=named)).subject == ""


def test_unknown_attributes_of_data_are_kept_under_metadata_which_wins() -> None:
    data = {"colour": "red", "depth": [1, {"a": None}], "metadata": {"region": "eu", "colour": "blue"}}

    assert accepted(structured(data=data)).data.metadata == {
        "colour": "blue",
        "depth": [1, {"a": None}],
        "region": "eu",
    }
    assert accepted(structured(data={"colour": "red"})).data.metadata == {"colour": "red"}
    assert accepted(structured(data={"colour": "red", "metadata": None})).data.metadata == {"colour": "red"}


def test_unknown_attributes_count_towards_the_limits_of_metadata() -> None:
    assert refused(structured(data={f"x{i}": i for i in range(33)}))[0] == Reason.METADATA_TOO_LARGE
    assert refused(structured(data={"x": nested(500)}))[0] == Reason.METADATA_TOO_LARGE


def test_unknown_attributes_of_the_envelope_are_left_alone() -> None:
    assert accepted(structured(traceparent="00-abc", dataschema=None, sequence=5)) == accepted(structured())


@pytest.mark.parametrize("count", [0, 1, MAX_COUNT])
def test_counts_reach_up_to_two_to_the_53(count: int) -> None:
    assert accepted(structured(data={"request_tokens": count, "tokens_returned": count})).data.request_tokens == count


@pytest.mark.parametrize("written", ["812.0", "8.12e2", "81200E-2"])
def test_a_whole_number_is_an_integer_however_it_is_written(written: str) -> None:
    value = structured(data={"request_tokens": "@"}).replace(b'"@"', written.encode())

    tokens = accepted(value).data.request_tokens
    assert (tokens, type(tokens)) == (812, int)


NOT_A_COUNT = [
    *("812.5", "1e400", "1e300", "-1", "9007199254740992", "18446744073709551616", "9" * 5000),
    *("true", '"812"', "null", "[1]", "NaN", "Infinity", "-Infinity", "0x10", "01"),
]


@pytest.mark.parametrize("written", NOT_A_COUNT, ids=[text[:12] for text in NOT_A_COUNT])
def test_what_is_no_count_is_refused(written: str) -> None:
    value = structured(data={"request_tokens": "@"}).replace(b'"@"', written.encode())

    assert refused(value)[0] in {Reason.INVALID_VALUE, Reason.NOT_JSON}


def test_of_a_repeated_key_the_last_counts() -> None:
    value = structured().replace(b'"model": "gpt-4o"', b'"model": "a", "model": "b"')

    assert accepted(value).data.model == "b"


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x" * 512, "\U0001f600" * 512, "\\u0000", '\t\n"\\/', "\x7f\u2028\ufeff"])
def test_texts_of_512_characters_of_any_kind_are_kept(text: str) -> None:
    assert accepted(structured(data={"end_user": text})).data.end_user == text


def test_a_text_of_513_characters_is_refused() -> None:
    assert "length <= 512" in refused(structured(data={"end_user": "x" * 513}))[1]


@pytest.mark.parametrize("data", [{"end_user": "\0"}, {"metadata": {"a": [{"\0": 1}]}}, {"unknown": "\0"}])
def test_a_nul_is_found_wherever_it_is(data: dict[str, Any]) -> None:
    assert refused(structured(data=data))[0] == Reason.NUL_CHARACTER


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ud800\\u0041", "\\udc00\\ud800"])
def test_half_a_surrogate_pair_is_refused_with_a_hint(escape: str) -> None:
    reason, detail = refused(structured(data={"end_user": "@"}).replace(b"@", escape.encode()))

    assert reason == Reason.NOT_JSON
    assert "half of a surrogate pair" in detail


def test_a_surrogate_pair_is_the_character_that_it_means() -> None:
    assert accepted(structured(data={"end_user": "@"}).replace(b"@", b"\\ud83d\\ude00")).data.end_user == "\U0001f600"


def test_a_detail_that_quotes_the_record_can_be_stored() -> None:
    detail = Rejected(Reason.NOT_JSON, "a\0b\ud800c").detail

    assert detail == "a\\u0000b\\ud800c"


@pytest.mark.parametrize("opened", ["[", '{"a":', '{"data":{"metadata":{"a":['])
def test_a_hundred_thousand_brackets_are_told_and_not_followed(opened: str) -> None:
    assert refused((opened * (100_000 // len(opened))).encode())[0] == Reason.NOT_JSON


@pytest.mark.parametrize("place", ["specversion", "type", "id", "time", "extension"])
def test_deep_nesting_anywhere_never_raises(place: str) -> None:
    for levels in (17, 300, 900, 980):
        value = structured(data={"end_user": "\0"}, **{place: "@"}).replace(b'"@"', b"[" * levels + b"]" * levels)
        assert isinstance(judge(value), Rejected)


def test_an_integer_of_thousands_of_digits_never_raises() -> None:
    for place in ("specversion", "type", "id"):
        for digits in (400, 4_300, 4_301):
            value = structured(data={}, **{place: "@"}).replace(b'"@"', b"9" * digits)
            assert isinstance(judge(value), Rejected)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "instant"),
    [
        ("2026-11-21T11:59:30Z", datetime(2026, 11, 21, 11, 59, 30, tzinfo=UTC)),
        ("2026-11-21t11:59:30z", datetime(2026, 11, 21, 11, 59, 30, tzinfo=UTC)),
        ("2026-11-21 11:59:30Z", datetime(2026, 11, 21, 11, 59, 30, tzinfo=UTC)),
        ("2026-11-21T13:59:30+02:00", datetime(2026, 11, 21, 11, 59, 30, tzinfo=UTC)),
        ("2026-11-21T01:14:30-10:45", datetime(2026, 11, 21, 11, 59, 30, tzinfo=UTC)),
        ("2026-11-21T11:59:30.5Z", datetime(2026, 11, 21, 11, 59, 30, 500_000, tzinfo=UTC)),
        ("2026-11-21T11:59:30.123456789Z", datetime(2026, 11, 21, 11, 59, 30, 123_457, tzinfo=UTC)),
        ("2026-11-21T11:59:59.999999999Z", datetime(2026, 11, 21, 12, tzinfo=UTC)),
    ],
)
def test_times_with_zones_are_instants_to_the_microsecond(time: str, instant: datetime) -> None:
    assert accepted(structured(time=time)).time == instant


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-21T11:59:30",  # without a zone it is no instant
        "2016-12-31T23:59:60Z",  # a leap second: no clock of ours has it
        "2026-11-21",
        "2026-11-21T24:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-21T11:59:30+24:00",
        "yesterday",
        "",
        1_763_720_130,
        None,
    ],
)
def test_what_is_no_instant_is_refused(time: object) -> None:
    reason, detail = refused(structured(time=time))

    assert reason == Reason.INVALID_VALUE
    assert "datetime" in detail
    assert "$.time" in detail


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_the_ends_of_the_calendar_are_outside_of_the_window(time: str) -> None:
    assert refused(structured(time=time))[0] in {Reason.TOO_OLD, Reason.TOO_FAR_AHEAD}


def test_both_ends_of_the_window_are_inside() -> None:
    for at in Limits().window(NOW):
        assert accepted(structured(time=at.isoformat())).time == at
    assert Limits(late=timedelta(hours=1)).window(NOW)[0] == NOW - timedelta(hours=1)


# --- binary mode ------------------------------------------------------------------------------------------------------


def test_binary_mode_gives_the_same_event_as_structured_mode() -> None:
    assert accepted(*binary(data={"colour": "red", "cached_tokens": 5})) == accepted(
        structured(data={"colour": "red", "cached_tokens": 5})
    )


def test_headers_that_are_not_ours_may_hold_what_they_like() -> None:
    value, headers = binary()
    foreign: Headers = [("trace", b"\xff"), ("ce_custom", b"\xff\x00"), ("ce_null", None), ("", b""), ("x\0", b"")]

    assert accepted(value, [*headers, *foreign]) == accepted(value, headers)
    assert accepted(structured(), foreign) == accepted(structured())


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_subject", "ce_time", "ce_specversion", "ce_type"])
def test_our_headers_have_to_be_utf8(name: str) -> None:
    value, headers = binary()
    reason, detail = refused(value, [*headers, (name, b"caf\xe9")])

    assert reason == Reason.NOT_UTF8
    assert "ce_ headers is not UTF-8" in detail


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_subject"])
def test_a_nul_in_a_header_is_found(name: str) -> None:
    value, headers = binary()

    assert refused(value, [*headers, (name, b"a\x00b")])[0] == Reason.NUL_CHARACTER


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"time": ...}, Reason.MISSING_FIELD),
        ({"source": ...}, Reason.MISSING_FIELD),
        ({"time": "now"}, Reason.INVALID_VALUE),
        ({"type": "other"}, Reason.UNKNOWN_TYPE),
        ({"specversion": "0.3"}, Reason.UNKNOWN_VERSION),
        ({"id": "x" * 513}, Reason.INVALID_VALUE),
    ],
)
def test_binary_mode_is_judged_like_structured_mode(attributes: dict[str, Any], reason: Reason) -> None:
    assert refused(*binary(**attributes))[0] == reason
    assert refused(structured(**attributes))[0] == reason


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"x"', b"{}", b"not json", b""])
def test_a_body_that_is_no_usage_is_refused(body: bytes) -> None:
    assert refused(body, binary()[1])[0] in {Reason.NOT_JSON, Reason.INVALID_VALUE, Reason.MISSING_FIELD}


def test_a_structured_content_type_overrules_attributes_in_headers() -> None:
    headers: Headers = [
        ("content-type", b"application/cloudevents+json; charset=UTF-8"),
        ("ce_id", b"other"),
        ("ce_specversion", b"0.3"),
    ]

    assert accepted(structured(), headers).id == "req-1"


def test_a_header_without_value_is_an_empty_attribute() -> None:
    value, headers = binary(subject=..., data={"api_key_id": KEY})

    assert accepted(value, [*headers, ("ce_subject", None)]).subject == ""
    assert accepted(value, headers).subject is None
    assert accepted(*binary()).subject == SUBSCRIPTION
