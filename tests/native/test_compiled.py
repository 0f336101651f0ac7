"""The compiled sweep gives what the one in Python gives, of whatever comes in; and takes what is ordinary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import tallystick_native
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.ingest.acceptance import Limits, accept
from services.ingest.attribution import Attributor, Name, Owner
from services.ingest.compiled import Compiled, CompiledRecent, CompiledSweeper, load, make_sweeper
from services.ingest.deltas import MOST_RESERVATIONS
from services.ingest.packing import COLUMNS, IDENTITY_COLUMNS
from services.ingest.sweeping import Sweep, Sweeper, Swept, sweep_plainly
from shared.contracts import ProviderDelta, UsageEvent
from shared.ids import event_key
from tests.unit.ingest.events import NOW, SUBSCRIPTION, Headers, document, record, structured
from tests.unit.ingest.facts import ALICE, BATCH, BOB, damaged, json_values, texts, valid_corrections, valid_documents
from tests.unit.ingest.unpacking import unpack

LIMITS = Limits(record_bytes=6_000, metadata_bytes=1_500, metadata_keys=3)
SUBJECTS = [None, "", SUBSCRIPTION, str(BOB), "nobody"]
KEYS = [None, "", "key"]


def attributor() -> Attributor:
    """Return one that knows some of those whom events name."""
    knows = Attributor()
    knows.remember(
        {
            (SUBSCRIPTION, None, None): Owner(ALICE, None),
            (SUBSCRIPTION, "key", None): Owner(ALICE, UUID(int=77)),
            (str(BOB), "", None): Owner(BOB, None),
            (None, None, "key"): Owner(BOB, UUID(int=78)),
        }
    )
    return knows


def both(limits: Limits = LIMITS) -> tuple[Sweeper, CompiledRecent, Sweep]:
    """Return a compiled sweeper with its window, and how the batches of these tests are gone over."""
    knows = attributor()
    sweeper, recent = make_sweeper(load(Compiled.REQUIRED), limits, knows.known_as, 50)
    assert isinstance(recent, CompiledRecent)
    return sweeper, recent, Sweep(limits, limits.window(NOW), knows.known)


def told(swept: Swept) -> dict[str, Any]:
    """Return all that a sweep made of a batch, comparable: rows and sums are in an order of their own."""
    sums, rest = swept.packed.sums().decoded(), swept.rest
    return {
        "rows": sorted(unpack(swept.packed.rows, COLUMNS), key=lambda row: row["id"]),
        "identities": unpack(swept.packed.identities, IDENTITY_COLUMNS),
        "minutes": swept.packed.minutes,
        "keys": set(swept.keys),
        "deltas": sorted(map(repr, sums.deltas)),
        "providers": observed(sums.providers),
        "youngest": swept.packed.sums().youngest,
        "rest": [[(r.offset, what) for r, what in some] for some in (rest.usage, rest.corrections, rest.refused)],
    }


def observed(seen: list[ProviderDelta]) -> dict[tuple[str, datetime], Any]:
    """Add up what parts of a batch saw: what was handed back is a part of its own, as it is where duplicates were looked up."""
    found: dict[tuple[str, datetime], list[ProviderDelta]] = {}
    for one in seen:
        found.setdefault((one.provider, one.minute), []).append(one)
    return {
        name: (
            sum(one.requests for one in parts), sum(one.errors for one in parts), sum(one.rate_limited for one in parts),
            sum(one.latency_sum_ms for one in parts), sum(one.latency_count for one in parts),
            [sum(counts) for counts in zip(*(one.latency_histogram for one in parts), strict=True)],
            max(filter(None, (one.last_success_at for one in parts)), default=None),
            max(filter(None, (one.last_failure_at for one in parts)), default=None),
        )
        for name, parts in found.items()
    }  # fmt: skip


def assert_same(sent: Sequence[tuple[bytes | None, Headers]], recent_ids: set[bytes], known: set[bytes]) -> Swept:
    records = [record(value, offset=offset, headers=headers) for offset, (value, headers) in enumerate(sent)]
    sweeper, recent, sweep = both()
    recent.remember(recent_ids)

    plain = sweep_plainly(replace(sweep, recent=(recent_ids, ()), known=known), records, BATCH, 7)
    compiled = sweeper(replace(sweep, recent=recent.generations, known=known), records, BATCH, 7)

    assert told(compiled) == told(plain)
    return compiled


scalars = (
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
flat = st.dictionaries(texts, scalars, max_size=4)
instants = st.one_of(
    st.integers(-36 * 86_400 * 10**6, 400 * 10**6).map(lambda us: NOW + timedelta(microseconds=us)),
    st.datetimes(timezones=st.timezones()),
).map(lambda at: at.isoformat())
ODD_INSTANTS = [
        "2026-11-21T11:59:30Z", "2026-11-21t11:59:30z", "2026-11-21 11:59:30Z", "2026-11-21T11:59:30.1Z", "2026-11-21T11:59:30.1234567Z",
        "2026-11-21T11:59:60Z", "2026-11-21T24:00:00Z", "2026-11-31T00:00:00Z", "2026-02-29T00:00:00Z", "2026-11-21T11:59:30-00:00",
        "2026-11-21T11:59:30+0000", "2026-11-21T11:59:30+05:45", "2026-11-21T11:59:30", "2026-11-21T11:59:30.Z", "2026-11-21T11:59:30+24:00",
        "0001-01-01T00:00:00+01:00", "1970-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00", "20261121T115930Z", "",
    ]  # fmt: skip


ordinary_data = st.fixed_dictionaries(
    {"model": st.sampled_from(["a", "é", 'b"']), "request_tokens": st.integers(3, 2**53 - 1)},
    optional={
        "provider": st.sampled_from([None, "", "openai", 'quo"ted']),
        "response_tokens": st.integers(0, 9),
        "cached_tokens": st.integers(0, 3),
        "status_code": st.sampled_from([100, 200, 399, 400, 429, 503, 599]),
        "latency_ms": st.sampled_from([0, 50, 51, 2**31 - 1, None]),
        "byok": st.booleans(),
        "power_level": st.sampled_from(["eco", "balanced", None]),
        "tool_name": st.sampled_from([None, "search"]),
        "feature_type": st.sampled_from([None, "", "chat"]),
        "app_id": st.sampled_from([None, "", "crm", 'a"é']),
        "error_message": st.sampled_from([None, "it failed\n"]),
        "tokens_returned": st.sampled_from([None, 0, 2**53 - 1]),
        "reservation_id": st.sampled_from([None, str(UUID(int=5)), str(UUID(int=11**20)).upper()]),
        "session_id": st.none() | texts,
        "end_user": st.sampled_from([None, "s" * 512, "\x7f"]),
        "metadata": st.sampled_from([None, {}, {"region": "eu", "é": "ü"}, {"t": 0.7, "n": -3, "b": True, "x": None}]),
    },
)
odd_data = st.one_of(
    st.tuples(st.just("metadata"), flat | json_values),
    st.tuples(st.just("request_tokens"), st.sampled_from([0, 1.0, 2**53, -1, "1", None])),
    st.tuples(st.just("status_code"), st.sampled_from([99, 600, 200.0, None, 70_000])),
    st.tuples(st.just("latency_ms"), st.sampled_from([2**31, 7.0, True, -1])),
    st.tuples(st.just("byok"), st.sampled_from([None, 0, "true"])),
    st.tuples(st.just("reservation_id"), st.sampled_from([UUID(int=5).hex, "", "mine", "g" * 36])),
    st.tuples(st.just("session_id"), st.sampled_from(["é" * 512, "s" * 513, "a\0b", "\ud83d", 5])),
    st.tuples(st.sampled_from(["api_key_id", "api_key_hash"]), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["unknown", "model", "tool_name", "power_level"]), st.none() | texts | json_values),
)
odd_attributes = st.one_of(
    st.tuples(st.just("time"), instants | st.sampled_from(ODD_INSTANTS)),
    st.tuples(st.just("subject"), st.sampled_from(SUBJECTS)),
    st.tuples(
        st.sampled_from(["datacontenttype", "dataschema", "traceparent", "sequence", "id", "source", "type"]), scalars
    ),
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Usage events of few names, so that they share and collide; most are ordinary but for one thing or none."""
    return document(
        data={**draw(ordinary_data), **dict(draw(st.lists(odd_data, max_size=1)))},
        **{
            "id": draw(st.sampled_from(["1", "2", "é", "3" * 512])),
            "source": draw(st.sampled_from(["/a", "/é", "/b"])),
            "time": (
                NOW - timedelta(seconds=draw(st.integers(0, 90)), microseconds=draw(st.integers(0, 1)))
            ).isoformat(),
            **dict(draw(st.lists(odd_attributes, max_size=1))),
        },
    )


written = st.builds(
    lambda found, ascii_only, blanks: json.dumps(found, ensure_ascii=ascii_only, indent=1 if blanks else None).encode(
        "utf-8", "surrogatepass"
    ),
    documents(),
    st.booleans(),
    st.booleans(),
)
headers = st.sampled_from(
    [
        (),
        (),
        (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),),
        (("content-type", b"application/cloudevents+json"), ("ce_id", b"other")),
        (("ce_id", b"binary"), ("ce_specversion", b"1.0")),
    ]
)
records = st.tuples(
    st.one_of(
        written,
        written,
        written,
        valid_documents().map(lambda one: structured(**one)),
        valid_corrections().map(lambda one: structured(**one)),
        damaged(),
        st.none(),
        st.binary(max_size=20),
    ),
    headers,
)


@settings(max_examples=800, deadline=None)
@given(st.lists(records, max_size=14), st.sets(st.integers(0, 13), max_size=2), st.sets(st.integers(0, 13), max_size=2))
def test_both_make_the_same_of_any_batch(
    sent: list[tuple[bytes | None, Headers]], recent: set[int], stored: set[int]
) -> None:
    keys: dict[int, bytes] = {}
    for number, (value, of_record) in enumerate(sent):
        found = accept(value, of_record, LIMITS, *LIMITS.window(NOW))
        if isinstance(found, UsageEvent):
            keys[number] = event_key(found.source, found.id)

    assert_same(sent, {keys[n] for n in recent if n in keys}, {keys[n] for n in stored if n in keys})


@settings(max_examples=800, deadline=None)
@given(json_values | scalars)
@example(1e-5)
@example(0.1 + 0.2)
@example(-0.0)
@example(1e22)
@example(70368744177664.62)
def test_both_write_metadata_alike(content: Any) -> None:
    assert_same([(structured(data={"metadata": {"it": content}}), ())], set(), set())


@pytest.mark.parametrize("text", ODD_INSTANTS)
def test_both_read_alike_a_time_that_is_written_oddly(text: str) -> None:
    assert_same([(structured(time=text), ())], set(), set())


@settings(max_examples=800, deadline=None)
@given(st.text(max_size=30, alphabet="0123456789-:.TZtz+ "), st.datetimes(timezones=st.timezones()), st.integers(0, 26))
def test_both_read_any_time_alike(noise: str, at: datetime, cut: int) -> None:
    text = at.isoformat()
    limits = replace(LIMITS, late=timedelta(days=700_000), ahead=timedelta(days=2_000_000))
    knows = attributor()
    sweeper, _ = make_sweeper(load(Compiled.REQUIRED), limits, knows.known_as, 50)
    sweep = Sweep(limits, (NOW - timedelta(days=700_000), NOW + timedelta(days=2_000_000)), knows.known)
    sent = [record(structured(id=str(n), time=one), offset=n) for n, one in enumerate((noise, text, text[:cut] + noise + text[cut:]))]  # fmt: skip

    assert told(sweeper(sweep, sent, BATCH, 1)) == told(sweep_plainly(sweep, sent, BATCH, 1))


WRITTEN = [
    '"metadata": {"a": 1, "b": 2, "a": 3}', '"metadata": {"\\u0061": 1}', '"metadata": {"a": "\\u00e9"}', '"metadata": {"a": "\\/"}',
    '"metadata": {"a": 1e2}', '"metadata": {"a": 1E400}', '"metadata": {"a": -0}', '"metadata": {"a": 01}', '"metadata": {"a": 18446744073709551616}',
    '"metadata": {"a": 0.10}', '"metadata": {"a": 1.}', '"metadata": {"a": NaN}', '"metadata": {"a": {}}', '"metadata": {}', '"metadata": []',
    '"metadata": {"a": 1,}', '"metadata": {"a": "\t"}', '"metadata": {"a": 123456789012345678901234567890}', '"metadata": {"a": 0.1e1}',
    '"request_tokens": 1, "request_tokens": 2', '"request_tokens": 1e1', '"request_tokens": -0', '"request_tokens": 5.0', '"request_tokens": 00',
    '"\\u0062yok": true', '"session_id": "\\u0000"', '"session_id": "\\ud83d\\ude00"', '"session_id": "\\ud83d"',
    '"session_id": "\x01"',
    '"session_id": 5', '"unknown": 1', '"latency_ms": 2147483648', '"status_code": 70000', '"byok": "true"',
    '"model": ""', '"power_level": ""', '"tool_name": ""',
]  # fmt: skip
"""Members of `data` that could be read in more than one way, or are none."""


@pytest.mark.parametrize("member", WRITTEN)
def test_both_read_alike_what_is_written_oddly(member: str) -> None:
    whole = structured().decode()
    assert '"data": {' in whole
    inside, beside = (whole.replace('"data": {', f'"data": {{{member}, '), whole.replace('"data": {', f'{member}, "data": {{'))  # fmt: skip

    assert_same(
        [(text.encode(), ()) for text in (inside, beside, f" {whole}\n", f"{whole}x", f"\ufeff{whole}")], set(), set()
    )


def test_reservations_are_named_and_a_delta_that_names_enough_is_followed_by_another() -> None:
    ids = [UUID(int=n) for n in range(2 * MOST_RESERVATIONS + 2)]
    sent = [(structured(id=str(id_), data={"reservation_id": str(id_)}), ()) for id_ in ids]

    deltas = assert_same(sent, set(), set()).packed.sums().decoded().deltas

    assert [len(delta.reservations) for delta in deltas] == [MOST_RESERVATIONS, MOST_RESERVATIONS, 2]


@pytest.mark.parametrize("edge", [NOW + LIMITS.ahead, NOW - LIMITS.late])
@pytest.mark.parametrize("microseconds", [-1, 0, 1])
def test_both_end_the_window_at_the_same_instant(edge: datetime, microseconds: int) -> None:
    at = edge + timedelta(microseconds=microseconds)

    swept = assert_same([(structured(time=at.isoformat()), ())], set(), set())

    assert len(swept.keys) == (at <= edge if edge > NOW else at >= edge)


@pytest.mark.parametrize("statuses", [(200, 500), (500, 200), (500, 200, 500), (429,), (200,), (500, 429, 399, 400)])
def test_both_see_the_same_of_providers_at_one_instant(statuses: tuple[int, ...]) -> None:
    sent = [
        (structured(id=str(n), data={"provider": "openai", "status_code": status}), ())
        for n, status in enumerate(statuses)
    ]

    [provider] = assert_same(sent, set(), set()).packed.sums().decoded().providers

    assert provider.trailing_failures == (0 if min(statuses) < 400 else len(statuses))


def test_sums_beyond_64_bits_are_whole() -> None:
    sent = [(structured(id=str(n), data={"request_tokens": 2**53 - 1}), ()) for n in range(2_049)]

    [delta] = assert_same(sent, set(), set()).packed.sums().decoded().deltas

    assert delta.request_tokens == 2_049 * (2**53 - 1) > 2**64


ORDINARY: list[dict[str, Any]] = [
    {},
    {"data": {"metadata": {"region": "eu", "temperature": 0.7, "top_p": 1.0, "n": 1, "stream": True, "user": None}}},
    {"data": {"error_message": 'they said "no"\n', "status_code": 500, "end_user": "Zoë", "tokens_returned": 3}},
    {
        "time": "2026-11-21T12:59:30+01:00",
        "datacontenttype": "application/json",
        "data": {"reservation_id": str(UUID(int=9))},
    },
    {
        "data": {
            "model": ...,
            "tool_name": "search",
            "provider": None,
            "byok": True,
            "power_level": "eco",
            "cached_tokens": 3,
            "latency_ms": 9,
        }
    },
    {"subject": ..., "data": {"api_key_hash": "key"}},
]


class Counted:
    """Python's part of a sweep, counting the records that it is given."""

    def __init__(self) -> None:
        self.records = 0

    def __call__(self, _event: UsageEvent) -> Owner | None:
        self.records += 1
        return None


@pytest.mark.parametrize("event", ORDINARY)
def test_what_is_ordinary_is_not_handed_back(event: dict[str, Any]) -> None:
    knows, asked = attributor(), Counted()
    sweeper, recent = make_sweeper(load(Compiled.REQUIRED), Limits(), knows.known_as, 50)
    sweep = Sweep(Limits(), Limits().window(NOW), asked, recent.generations)

    swept = sweeper(sweep, [record(structured(**event), headers=(("traceparent", b"00"),))], BATCH, 1)

    assert (len(swept.keys), asked.records) == (1, 0)


def test_the_first_of_an_id_counts_whoever_looks_at_it() -> None:
    """The first is handed back for its metadata; the second would be ordinary."""
    sent = [(structured(data={"request_tokens": n, "metadata": metadata}), ()) for n, metadata in ((1, {"a": [1]}), (2, {}))]  # fmt: skip

    swept = assert_same(sent, set(), set())

    assert [row["request_tokens"] for row in unpack(swept.packed.rows, COLUMNS)] == [1]


def test_the_window_forgets_as_the_one_in_python_does() -> None:
    recent = CompiledRecent(tallystick_native.Window(10))
    keys = [n.to_bytes(16) for n in range(25)]
    for first in range(0, 25, 5):
        recent.remember(keys[first : first + 5])

    assert [n for n, key in enumerate(keys) if key in recent] == list(range(10, 25))
    assert b"short" not in recent


def test_an_owner_is_asked_for_once() -> None:
    asked: list[object] = []
    knows = attributor()

    def ask(name: Name) -> Owner | None:
        asked.append(name)
        return knows.known_as(name)

    sweeper = tallystick_native.Sweeper(ask, 1_000, 1_000, 10, (50,), 10)
    window = tallystick_native.Window(10)
    sweep = Sweep(Limits(), Limits().window(NOW), knows.known, (window, ()))
    for number in range(3):
        CompiledSweeper(tallystick_native, sweeper, window)(sweep, [record(structured(id=str(number)))], BATCH, 1)

    assert asked == [(SUBSCRIPTION, None, None)]
