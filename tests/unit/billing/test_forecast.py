"""Forecasts: usage goes on at the rate of the period so far, and what is known is taken as it is."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.billing.invoices.forecast import forecast_usage
from shared.period import Period

NOVEMBER = Period.parse_month("2026-11")


def test_usage_of_a_third_of_the_month_is_a_third_of_the_forecast() -> None:
    assert forecast_usage(Decimal("12.34"), NOVEMBER, NOVEMBER.start + timedelta(days=10), "EUR") == Decimal("37.02")


def test_it_is_too_early_within_the_first_hour() -> None:
    assert forecast_usage(Decimal(1), NOVEMBER, NOVEMBER.start + timedelta(minutes=59), "EUR") is None
    assert forecast_usage(Decimal(1), NOVEMBER, NOVEMBER.start - timedelta(days=1), "EUR") is None


@given(st.decimals(0, 10**6, places=6), st.integers(0, 100))
def test_after_the_period_it_is_what_was_used(used: Decimal, days: int) -> None:
    forecast = forecast_usage(used, NOVEMBER, NOVEMBER.end + timedelta(days=days), "EUR")
    assert forecast is not None
    assert abs(forecast - used) <= Decimal("0.005")


@given(st.decimals(0, 10**6, places=6), st.integers(1, 720), st.integers(1, 720))
def test_the_same_usage_in_less_time_forecasts_more(used: Decimal, hours: int, other: int) -> None:
    early, late = sorted((hours, other))
    sooner = forecast_usage(used, NOVEMBER, NOVEMBER.start + timedelta(hours=early), "EUR")
    later = forecast_usage(used, NOVEMBER, NOVEMBER.start + timedelta(hours=late), "EUR")
    assert sooner is not None
    assert later is not None
    assert sooner >= later
