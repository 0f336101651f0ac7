"""What the readers of `usage.recorded` take from its messages (pure)."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from shared.recorded import late_seconds
from tests.unit.aggregator.facts import NOON, delta, recorded


def test_how_late_usage_was_is_told_by_the_youngest_of_the_last_message() -> None:
    old, young = (replace(delta(), last_event_at=NOON - timedelta(seconds=ago)) for ago in (3_600, 12))
    assert late_seconds([recorded(old)]) == 3_600
    assert late_seconds([recorded(old), recorded(old, young)]) == 12
    assert late_seconds([recorded(young), recorded(replace(delta(), last_event_at=NOON + timedelta(seconds=1)))]) == 0
    assert late_seconds([]) == late_seconds([recorded()]) == 0
