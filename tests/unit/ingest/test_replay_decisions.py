"""By which window a record is judged again, and what becomes of it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from services.ingest.acceptance import Limits, Reason, Rejected
from services.ingest.quarantine.decisions import Replayed, verdicts, window
from tests.unit.ingest.events import NOW, record

CAME = NOW - timedelta(days=100)
OTHER = Rejected(Reason.NOT_JSON, "…")


def test_an_event_does_not_grow_too_old_in_quarantine() -> None:
    limits = Limits(late=timedelta(days=35), ahead=timedelta(minutes=5))
    assert window(limits, CAME, NOW, accept_late=False) == (CAME - timedelta(days=35), NOW + timedelta(minutes=5))


def test_late_events_are_accepted_by_word_but_not_a_clock_that_was_never_set() -> None:
    earliest, _ = window(Limits(), CAME, NOW, accept_late=True)
    assert earliest.year == 2016


def test_each_record_is_resolved_or_stays_open() -> None:
    ids = {offset: UUID(int=offset) for offset in range(4)}
    result = verdicts(ids, [(record(b"", offset=1), OTHER)], [2])
    assert result.resolved == [UUID(int=0), UUID(int=3)]
    assert [(id_.int, rejected.reason) for id_, rejected in result.refused] == [
        (1, OTHER.reason),
        (2, Reason.NOBODY_NAMED),
    ]


def test_refused_again_is_counted_by_the_reason_that_holds_now_with_one_example() -> None:
    total = Replayed(inserted=1, duplicates=2, held=3)
    total.add_refused(
        [(UUID(int=1), Rejected(Reason.TOO_OLD, "first")), (UUID(int=2), Rejected(Reason.TOO_OLD, "next"))]
    )
    assert (total.resolved, total.refused_again, total.examples) == (6, {"too_old": 2}, {"too_old": "first"})
