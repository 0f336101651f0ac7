"""One pass over a batch: every record is packed or handed on, once; what is packed is what the careful way would store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.acceptance import Limits, accept
from services.ingest.attribution import Owner
from services.ingest.packing import COLUMNS, packed_identities
from services.ingest.rows import UsageRow, usage_row
from services.ingest.sweeping import Sweep, sweep_plainly
from shared.contracts import UsageEvent
from shared.corrections import AmendEvent, VoidEvent
from shared.ids import event_key, uuid_of_bytes
from tests.unit.ingest.events import NOW, record, structured
from tests.unit.ingest.facts import ALICE, BATCH, damaged, valid_corrections, valid_documents
from tests.unit.ingest.unpacking import unpack

LIMITS = Limits()
KNOWN = Owner(ALICE, None)


def owner_of(event: UsageEvent) -> Owner | None:
    """Everybody is known but those whose source is of an odd length."""
    return KNOWN if len(event.source) % 2 == 0 else None


SWEEP = Sweep(LIMITS, LIMITS.window(NOW), owner_of)

values = st.lists(
    st.one_of(
        valid_documents().map(lambda document: structured(**document)),
        st.sampled_from([structured(id=f"req-{n}", source="/a") for n in range(3)]),
        valid_corrections().map(lambda document: structured(**document)),
        damaged(),
    ),
    max_size=12,
)


@given(values, st.sets(st.integers(0, 11), max_size=3))
def test_every_record_is_packed_or_handed_on_as_it_was_judged(sent: list[bytes], suspects: set[int]) -> None:
    records = [record(value, offset=offset) for offset, value in enumerate(sent)]
    judged = [accept(r.value, r.headers, LIMITS, *LIMITS.window(NOW)) for r in records]
    keys = [event_key(e.source, e.id) if isinstance(e, UsageEvent) else None for e in judged]
    suspected = {key for number in suspects if number < len(keys) and (key := keys[number])}

    swept = sweep_plainly(replace(SWEEP, recent=(set(), suspected)), records, BATCH, 1)

    plain: dict[bytes, UsageRow] = {}
    for event, key in zip(judged, keys, strict=True):
        if isinstance(event, UsageEvent) and key and owner_of(event) and key not in suspected:
            plain.setdefault(key, usage_row(event, key, ALICE, None, BATCH))
    rows = unpack(swept.packed.rows, COLUMNS)
    assert [row["id"] for row in rows] == [row.id for row in plain.values()]
    assert [{**row} for row in rows] == [{name: getattr(row, name) for name in COLUMNS} for row in plain.values()]
    assert swept.keys == set(plain)
    assert dict(packed_identities(swept.packed.identities)) == {row.id: row.created_at for row in plain.values()}

    rest = swept.rest
    handed_on: dict[int, Any] = {r.offset: what for r, what in [*rest.usage, *rest.corrections, *rest.refused]}
    assert len(handed_on) == len(rest.usage) + len(rest.corrections) + len(rest.refused)
    assert len(handed_on) + len(plain) == len(records)
    assert all(judged[offset] == what for offset, what in handed_on.items())
    assert all(isinstance(event, UsageEvent) for _, event in rest.usage)
    assert all(isinstance(event, AmendEvent | VoidEvent) for _, event in rest.corrections)


def test_the_first_of_an_id_is_packed_and_those_behind_it_are_handed_on() -> None:
    records = [record(structured(id="twice", data={"request_tokens": n}), offset=n) for n in (1, 2)]

    swept = sweep_plainly(SWEEP, records, BATCH, 1)

    assert [row["request_tokens"] for row in unpack(swept.packed.rows, COLUMNS)] == [1]
    assert [r.offset for r, _ in swept.rest.usage] == [2]


def test_the_ids_of_packed_identities_are_read_back() -> None:
    swept = sweep_plainly(SWEEP, [record(structured(id=f"req-{n}"), offset=n) for n in range(5)], BATCH, 1)

    assert {id_ for id_, _ in packed_identities(swept.packed.identities)} == set(map(uuid_of_bytes, swept.keys))
