"""Generated events: valid ones with anything that a text or a number may be, and bytes that were valid once."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from services.ingest.attribution import Owner
from services.ingest.packing import Candidate
from services.ingest.rows import UsageRow, usage_row
from shared.contracts import MAX_COUNT, UsageData, UsageEvent
from shared.corrections import AMEND_TYPE, VOID_TYPE, AmendEvent
from shared.ids import event_key
from tests.unit.ingest.events import NOW, document, record, structured

TEXT_FIELDS: Final = (
    "api_key_hash provider error_message feature_type library_id reservation_id app_id session_id end_user".split()  # noqa: SIM905
)
ALICE, BOB, BATCH = UUID(int=1), UUID(int=2), UUID(int=3)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
names = texts.filter(bool)
counts = st.integers(0, MAX_COUNT)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
times = st.integers(-34 * 86_400 * 10**6, 0).map(lambda us: (NOW + timedelta(microseconds=us)).isoformat())


@st.composite
def valid_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Events that ingest accepts, whatever is in them."""
    request_tokens = draw(counts)
    data = draw(
        st.fixed_dictionaries(
            {"model": names},
            optional={
                **dict.fromkeys(TEXT_FIELDS, st.none() | texts),
                "power_level": st.none() | names,
                "tool_name": st.none() | names,
                "response_tokens": counts,
                "tokens_returned": st.none() | counts,
                "latency_ms": st.none() | st.integers(0, 2**31 - 1),
                "status_code": st.integers(100, 599),
                "byok": st.booleans(),
                "cached_tokens": st.integers(0, request_tokens),
                "metadata": st.none() | st.dictionaries(texts, json_values, max_size=4),
                "unknown": json_values,
            },
        )
    )
    return document(
        data={**data, "request_tokens": request_tokens}, id=draw(names), source=draw(names), time=draw(times)
    )


@st.composite
def valid_corrections(draw: st.DrawFn) -> dict[str, Any]:
    """Voids and amendments that ingest accepts, whatever is in them."""
    event = draw(valid_documents())
    original = draw(names.filter(lambda name: name != event["id"]))
    if draw(st.booleans()):
        return {**event, "type": AMEND_TYPE, "data": {**event["data"], "amends": original}}
    return {**event, "type": VOID_TYPE, "data": {"voids": original}}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The bytes of a valid event or correction after a few cuts, insertions and changes."""
    document = draw(st.one_of(valid_documents(), valid_documents(), valid_corrections()))
    value = bytearray(json.dumps(document, ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value)))
        value[at : at + draw(st.integers(0, 8))] = draw(
            st.binary(max_size=6)
            | st.sampled_from(
                [b'"', b"{", b"}", b"[", b"\\u0000", b"\\ud800", b"1e400", b"null", b",", b":", b"-", b"\x00"]
            )
        )
    return bytes(value)


def row_of(event: UsageEvent | AmendEvent, *, subscription: UUID = ALICE) -> UsageRow:
    """Return the row of an accepted event."""
    return usage_row(event, event_key(event.source, event.id), subscription, None, BATCH)


def event_of(row: UsageRow) -> UsageEvent:
    """Return the event that leaves a row; nothing about it is checked."""
    same = {name: getattr(row, name) for name in UsageData.__struct_fields__ if name in row._fields}
    metadata: Any = None if row.metadata is None else msgspec.Raw(row.metadata.encode("utf-8", "surrogatepass"))
    data = UsageData(**{**same, "model": row.model_id, "metadata": metadata, "api_key_id": None})
    return UsageEvent(
        specversion="1.0",
        id=row.request_id,
        source=row.source,
        type="tallystick.usage.v1",
        time=row.created_at,
        data=data,
    )


def candidate(row: UsageRow, *, offset: int = 0) -> Candidate:
    """Return the event that leaves a row, on its way into the log."""
    owner = Owner(row.subscription_id, row.api_key_id)
    return Candidate(record(structured(id=row.request_id), offset=offset), row.id.bytes, event_of(row), owner)


def some_row(rng: random.Random, **fields: Any) -> UsageRow:
    """Return a row that shares keys, hours and providers with others that are made so; `fields` replace columns."""
    facts: dict[str, Any] = dict.fromkeys(UsageRow._fields)
    facts |= {
        "created_at": NOW - timedelta(microseconds=rng.randrange(4 * 3600 * 10**6)),
        "id": UUID(int=rng.getrandbits(128)),
        "subscription_id": rng.choice([ALICE, BOB]),
        "api_key_id": rng.choice([None, ALICE, BOB]),
        "batch_id": BATCH,
        "model_id": rng.choice(["gpt-4o", "claude"]),
        "provider": rng.choice([None, "", "openai", "anthropic"]),
        "request_tokens": rng.choice([0, 10, MAX_COUNT]),
        "response_tokens": rng.randrange(100),
        "cached_tokens": rng.randrange(10),
        "tokens_returned": rng.choice([None, 0, 7]),
        "latency_ms": rng.choice([None, 0, 50, 51, 800, 51_200, 51_201, 2**31 - 1]),
        "status_code": rng.choice([200, 200, 200, 301, 399, 400, 429, 499, 500, 599]),
        "power_level": rng.choice(["balanced", "eco"]),
        "byok": rng.random() < 0.3,
        "feature_type": rng.choice([None, "", "chat"]),
        "source": "/gateways/eu-1",
        "request_id": str(rng.random()),
    }
    if rng.random() < 0.2:
        facts |= {"model_id": None, "tool_name": "search"}
    return UsageRow(**(facts | fields))


def as_stored(row: UsageRow, **changed: Any) -> Mapping[str, Any]:
    """Return a row as Postgres gives it back, with columns changed."""
    return row._asdict() | changed
