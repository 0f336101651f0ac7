"""What bodies and query strings are made of: exact amounts, and times with a date and a zone."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from services.api.fields import Amount, Instant

AMOUNT: TypeAdapter[Decimal] = TypeAdapter(Amount)
INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


@pytest.mark.parametrize("given", ["2026-11-02T01:00:00+01:00", "2026-11-02T00:00:00Z", "2026-11-02 00:00Z"])
def test_a_time_is_told_in_utc(given: str) -> None:
    assert INSTANT.validate_python(given) == datetime(2026, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        "2026-11-02T00:00:00",
        "0.5",
        "1793577600",
        1793577600,
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "now",
        "",
    ],
)
def test_what_is_no_time_with_a_zone_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        INSTANT.validate_python(given)


def test_an_amount_is_exact_in_and_out() -> None:
    assert AMOUNT.validate_python("0.10") == Decimal("0.10")
    assert AMOUNT.dump_json(Decimal("1E+2")) == b'"100"'


@pytest.mark.parametrize("given", [0.1, "NaN", "Infinity", "1e30", "0." + "1" * 19, "ten"])
def test_what_is_no_exact_amount_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        AMOUNT.validate_python(given)
