"""The one pass over a batch gives what the plain ways give, event by event: rows, identities, sums."""

from __future__ import annotations

import random
from datetime import timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.acceptance import Limits, accept
from services.ingest.attribution import Owner
from services.ingest.deltas import MOST_RESERVATIONS, aggregate
from services.ingest.packing import COLUMNS, IDENTITY_COLUMNS, Candidate, pack
from services.ingest.rows import UsageRow, usage_row
from shared.contracts import ProviderDelta, UsageDelta, UsageEvent
from shared.ids import event_key
from tests.unit.ingest.events import NOW, record, structured
from tests.unit.ingest.facts import ALICE, BATCH, BOB, candidate, some_row, texts, valid_documents
from tests.unit.ingest.unpacking import unpack

SEEDS = st.integers(0, 2**32)


def rows_of(packed_rows: bytes) -> list[UsageRow]:
    return [UsageRow(**row) for row in unpack(packed_rows, COLUMNS)]


def comparable(deltas: list[UsageDelta]) -> list[Any]:
    """Deltas in an order of their own, for those of two ways to be compared."""
    return sorted(repr(delta) for delta in deltas)


def observed(providers: list[ProviderDelta]) -> list[Any]:
    return sorted(repr(delta) for delta in providers)


@given(st.lists(valid_documents(), max_size=8), st.booleans())
def test_whatever_is_accepted_is_packed_as_its_row(documents: list[dict[str, Any]], keyed: bool) -> None:
    owner = Owner(ALICE, BOB if keyed else None)
    candidates: list[Candidate] = []
    for one in documents:
        event = accept(structured(**one), (), Limits(), *Limits().window(NOW))
        assert isinstance(event, UsageEvent)
        candidates.append(Candidate(record(b""), event_key(event.source, event.id), event, owner))

    packed = pack(candidates, BATCH, 7)

    expected = [usage_row(c.event, c.key, ALICE, owner.api_key_id, BATCH) for c in candidates]
    assert rows_of(packed.rows) == expected
    assert unpack(packed.identities, IDENTITY_COLUMNS) == [
        {"id": row.id, "created_at": row.created_at, "generation": 7}
        for row in sorted(expected, key=lambda r: (r.id.bytes, r.created_at))
    ]


def test_identities_of_one_id_are_in_the_order_of_their_times() -> None:
    """Nobody packs an id twice, as the first of a batch is packed alone; what is drawn above may hold one twice."""
    row = some_row(random.Random(4))
    earlier = row._replace(created_at=row.created_at - timedelta(microseconds=1))

    packed = pack([candidate(row), candidate(earlier)], BATCH, 1)

    found = unpack(packed.identities, IDENTITY_COLUMNS)
    assert [(each["id"], each["created_at"]) for each in found] == [(r.id, r.created_at) for r in (earlier, row)]


@given(
    st.lists(
        st.none() | texts | texts.map(lambda t: t * 40) | st.sampled_from(["a" * 127, "a" * 128, "é" * 64]),
        min_size=5,
        max_size=5,
    )
)
def test_texts_of_any_length_and_script_are_packed_whole(given_texts: list[str | None]) -> None:
    session, user, app, feature, error = given_texts
    row = some_row(
        random.Random(1), session_id=session, end_user=user, app_id=app, feature_type=feature, error_message=error
    )

    assert rows_of(pack([candidate(row)], BATCH, 1).rows) == [row]


@given(SEEDS, st.integers(0, 60))
def test_sums_are_those_of_the_rows(seed: int, count: int) -> None:
    rng = random.Random(seed)
    rows = [some_row(rng) for _ in range(count)]

    sums = pack([candidate(row) for row in rows], BATCH, 1).sums().decoded()

    plain = aggregate(rows)
    assert comparable(sums.deltas) == comparable(plain.deltas)
    assert observed(sums.providers) == observed(plain.providers)


def test_a_time_in_another_zone_is_the_same_instant() -> None:
    row = some_row(random.Random(3))
    elsewhere = row._replace(created_at=row.created_at.astimezone(timezone(timedelta(hours=5, minutes=45))))

    here, there = (pack([candidate(r)], BATCH, 1) for r in (row, elsewhere))

    assert (here.rows, here.identities) == (there.rows, there.identities)
    assert here.sums() == there.sums()


@pytest.mark.parametrize("minutes", [1, 3])
def test_reservations_are_named_and_a_delta_that_names_enough_is_followed_by_another(minutes: int) -> None:
    row = some_row(random.Random(2), created_at=NOW.replace(minute=10))
    rows = [
        row._replace(
            id=UUID(int=n), reservation_id=str(UUID(int=n)), created_at=row.created_at + timedelta(minutes=n % minutes)
        )
        for n in range(1, 2 * MOST_RESERVATIONS + 2)
    ]
    rows.append(row._replace(reservation_id="my-own-number"))

    deltas = pack([candidate(r) for r in rows], BATCH, 1).sums().decoded().deltas

    assert sorted(id_ for delta in deltas for id_ in delta.reservations) == [
        UUID(int=n) for n in range(1, 2 * MOST_RESERVATIONS + 2)
    ]
    assert max(len(delta.reservations) for delta in deltas) <= MOST_RESERVATIONS
    assert sum(delta.requests for delta in deltas) == len(rows)


def test_nothing_is_packed_as_nothing() -> None:
    packed = pack([], BATCH, 1)

    assert (unpack(packed.rows, COLUMNS), unpack(packed.identities, IDENTITY_COLUMNS), packed.sums()) == (
        [],
        [],
        ([], []),
    )
