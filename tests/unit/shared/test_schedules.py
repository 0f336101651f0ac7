"""When jobs are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from shared.jobs.schedules import Every, Monthly

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SECOND_OF_NOVEMBER = datetime(2026, 11, 2, tzinfo=UTC)
MONTHS = Monthly(after=DAY)

HOURS = 24 * 365 * 20
instants = st.timedeltas(timedelta(0), HOURS * HOUR).map(lambda ahead: datetime(2020, 1, 1, tzinfo=UTC) + ahead)


def test_a_month_is_due_when_its_grace_is_over() -> None:
    first_usage = datetime(2026, 10, 14, tzinfo=UTC)
    assert MONTHS(SECOND_OF_NOVEMBER - timedelta(microseconds=1), first_usage) == []
    assert MONTHS(SECOND_OF_NOVEMBER, first_usage) == [SECOND_OF_NOVEMBER]


def test_a_recorded_run_is_not_due_again() -> None:
    assert MONTHS(SECOND_OF_NOVEMBER + 20 * DAY, SECOND_OF_NOVEMBER) == []


def test_missed_months_are_all_due_in_order() -> None:
    assert MONTHS(datetime(2027, 1, 15, tzinfo=UTC), SECOND_OF_NOVEMBER) == [
        datetime(2026, 12, 2, tzinfo=UTC),
        datetime(2027, 1, 2, tzinfo=UTC),
    ]


def test_months_from_before_there_was_anything_are_not_due() -> None:
    assert MONTHS(SECOND_OF_NOVEMBER, None) == []
    assert MONTHS(SECOND_OF_NOVEMBER, datetime(2026, 11, 1, 12, tzinfo=UTC)) == [SECOND_OF_NOVEMBER]


def test_slots_that_were_missed_are_one_the_latest() -> None:
    at = datetime(2026, 11, 2, 10, 20, tzinfo=UTC)
    assert Every(HOUR)(at, None) == [datetime(2026, 11, 2, 10, tzinfo=UTC)]
    assert Every(HOUR)(at, at - 5 * DAY) == [datetime(2026, 11, 2, 10, tzinfo=UTC)]
    assert Every(HOUR)(at, datetime(2026, 11, 2, 10, tzinfo=UTC)) == []
    assert Every(DAY, offset=3 * HOUR)(at, None) == [datetime(2026, 11, 2, 3, tzinfo=UTC)]


@given(
    since=instants,
    steps=st.lists(st.timedeltas(timedelta(0), 70 * DAY), max_size=12),
    grace=st.timedeltas(timedelta(0), 10 * DAY),
)
def test_months_seen_in_steps_are_the_months_seen_at_once(
    since: datetime, steps: list[timedelta], grace: timedelta
) -> None:
    schedule, now, last, seen = Monthly(grace), since, since, list[datetime]()
    for step in steps:
        now += step
        due = list(schedule(now, last))
        seen += due
        last = due[-1] if due else last
    assert seen == list(schedule(now, since))
    assert schedule.next(now) > now
    assert schedule(schedule.next(now), now) == [schedule.next(now)]


@given(now=instants, minutes=st.integers(1, 3_000))
def test_the_next_slot_is_due_when_it_comes_and_not_before(now: datetime, minutes: int) -> None:
    schedule = Every(timedelta(minutes=minutes))
    following = schedule.next(now)
    assert following > now
    assert schedule(following - timedelta(microseconds=1), now) == []
    assert schedule(following, now) == [following]
