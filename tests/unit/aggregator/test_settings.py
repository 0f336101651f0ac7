"""The aggregator's settings."""

from __future__ import annotations

import pytest

from services.aggregator.quota import QuotaPolicy
from services.aggregator.settings import Settings
from shared.errors import ConfigurationError
from shared.settings import load


@pytest.fixture(autouse=True)
def _servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere/nothing")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere:9092")


def test_thresholds_are_50_80_and_100_percent_of_a_month_unless_told_otherwise() -> None:
    assert load(Settings).quota_policy() == QuotaPolicy("month", (50, 80, 100))


def test_thresholds_are_read_from_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_AGGREGATOR_QUOTA_THRESHOLDS", "90, 75,90")
    monkeypatch.setenv("TALLYSTICK_AGGREGATOR_QUOTA_INTERVAL", "week")
    assert load(Settings).quota_policy() == QuotaPolicy("week", (75, 90))


@pytest.mark.parametrize("thresholds", ["0", "101", "fifty", "50;80"])
def test_a_threshold_that_is_no_percentage_is_refused_by_name(thresholds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_AGGREGATOR_QUOTA_THRESHOLDS", thresholds)
    with pytest.raises(ConfigurationError, match="TALLYSTICK_AGGREGATOR_QUOTA_THRESHOLDS"):
        load(Settings)
