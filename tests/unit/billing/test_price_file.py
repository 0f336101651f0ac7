"""Price lists: every digit is kept, and what cannot be meant is refused with the entry and the reason."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from services.billing.rating.price_file import NewPrice, PriceRefused, new_price, read_price_file

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_json_number_keeps_its_digits(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "prices.json",
        '[{"model": "gpt-4o", "currency": "USD", "input_per_1k": 0.0025, "output_per_1k": "0.010", "valid_from": "2026-12-01"}]',
    )
    assert read_price_file(path) == [
        NewPrice("model", "gpt-4o", "USD", Decimal("0.0025"), Decimal("0.010"), valid_from=DECEMBER)
    ]


def test_csv_says_the_same_and_an_empty_cell_says_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "prices.csv",
        "tool,feature,currency,per_request,unit,per_unit,bills_errors,valid_from,valid_to,cost_per_request\n"
        "query-docs,,EUR,0.002,returned_token,0.0000005,yes,2026-12-01T00:00Z,,0.001\n"
        ",docs,EUR,0.001,,,,,,\n",
    )
    first, second = read_price_file(path)
    assert (first.kind, first.subject, first.unit, first.per_unit) == (
        "tool",
        "query-docs",
        "returned_token",
        Decimal("0.0000005"),
    )
    assert (first.bills_errors, first.valid_from, first.valid_to, first.cost_per_request) == (
        True,
        DECEMBER,
        None,
        Decimal("0.001"),
    )
    assert second == NewPrice("feature", "docs", "EUR", per_request=Decimal("0.001"))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"currency": "USD"}, "exactly one of model, tool and feature"),
        ({"model": "a", "tool": "b", "currency": "USD"}, "exactly one of model, tool and feature"),
        ({"model": "a"}, "currency is None"),
        ({"model": "a", "currency": "usd"}, "three-letter code"),
        ({"model": "a", "currency": "USD", "input_per_1k": "-1"}, "never negative"),
        ({"model": "a", "currency": "USD", "input_per_1k": "NaN"}, "write a number"),
        ({"model": "a", "currency": "USD", "input_per_1k": 0.1}, "write a number"),
        ({"model": "a", "currency": "USD", "input_per_1k": "0.0000000000000000001"}, "18 digits after"),
        ({"model": "a", "currency": "USD", "input_per_1k": "1e12"}, "12 digits before"),
        ({"model": "a", "currency": "USD", "price": "1"}, "'price' is not part of a price"),
        ({"model": "a", "currency": "USD", "per_unit": "1"}, "unit and per_unit belong together"),
        ({"model": "a", "currency": "USD", "unit": "minute", "per_unit": "1"}, "unit is 'minute'"),
        ({"model": "a", "currency": "USD", "valid_from": "2026-12-01T00:30Z"}, "whole UTC hours"),
        ({"model": "a", "currency": "USD", "valid_from": "2026-12-01T00:00"}, "without a time zone"),
        ({"model": "a", "currency": "USD", "valid_from": "2026-12-02", "valid_to": "2026-12-01"}, "end before it begins"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(entry: dict[str, object], reason: str) -> None:
    with pytest.raises(PriceRefused, match=reason):
        new_price(entry)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("p.json", "{}", "not a list of prices"),
        ("p.json", "[", "not JSON"),
        ("p.json", "[]", "holds no prices"),
        ("p.json", '[{"model": "a"}]', "p.json, entry 1: currency"),
        ("p.csv", "model,currency\na,USD,1\n", "line 2: has another number of cells"),
        ("p.csv", "model,currency\na,USD\nb,\n", "p.csv, line 3: currency"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(PriceRefused, match=reason):
        read_price_file(written(tmp_path, name, text))
