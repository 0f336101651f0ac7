"""When months are due to be closed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from services.billing.jobs import months_due

DAY = timedelta(days=1)
SECOND_OF_NOVEMBER = datetime(2026, 11, 2, tzinfo=UTC)


def test_a_month_is_due_when_its_grace_is_over() -> None:
    first_usage = datetime(2026, 10, 14, tzinfo=UTC)
    assert months_due(SECOND_OF_NOVEMBER - timedelta(microseconds=1), first_usage, DAY) == []
    assert months_due(SECOND_OF_NOVEMBER, first_usage, DAY) == [SECOND_OF_NOVEMBER]


def test_a_recorded_run_is_not_due_again() -> None:
    assert months_due(SECOND_OF_NOVEMBER + 20 * DAY, SECOND_OF_NOVEMBER, DAY) == []


def test_missed_months_are_all_due_in_order() -> None:
    assert months_due(datetime(2027, 1, 15, tzinfo=UTC), SECOND_OF_NOVEMBER, DAY) == [
        datetime(2026, 12, 2, tzinfo=UTC),
        datetime(2027, 1, 2, tzinfo=UTC),
    ]


def test_months_from_before_the_first_usage_are_not_closed_by_themselves() -> None:
    assert months_due(SECOND_OF_NOVEMBER, None, DAY) == []
    assert months_due(SECOND_OF_NOVEMBER, datetime(2026, 11, 1, 12, tzinfo=UTC), DAY) == [SECOND_OF_NOVEMBER]
