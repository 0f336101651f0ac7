"""Reads price lists that people write: one JSON or CSV format for `tallystick price set` and `tallystick reprice`.

A price names one of `model`, `tool`, `feature`, a `currency`, and what it costs; docs/how-to/set-a-price.md has both formats. A number
keeps the digits it was written with: nothing goes through a float.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from shared.errors import ConfigurationError, NotFound
from shared.period import hour_start, utc

KINDS: Final = ("model", "tool", "feature")
UNITS: Final = ("second", "returned_token")
"""What a unit of a price can be: a second of the reported latency, a token that a tool returned."""
MOST_DIGITS: Final = 12, 18
"""Digits of a price before and after the point: below a billionth of a billionth nothing can be invoiced, nor told apart by eye."""
AMOUNTS: Final = ("input_per_1k", "output_per_1k", "per_request", "per_unit")
OPTIONAL_AMOUNTS: Final = (
    "cached_input_per_1k", "cost_input_per_1k", "cost_output_per_1k", "cost_cached_input_per_1k", "cost_per_request", "cost_per_unit",
)  # fmt: skip
_TEXTS: Final = ("currency", "unit", "valid_from", "valid_to", "bills_errors", "note")
FIELDS: Final = (*KINDS, *_TEXTS, *AMOUNTS, *OPTIONAL_AMOUNTS)


class PriceRefused(ConfigurationError):
    """A price cannot be taken as it is written; the message says which and why."""


class NoSuchPrice(NotFound, PriceRefused):
    """There is no price of that id."""


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A price that a person asks for, in force in `[valid_from, valid_to)` on UTC hours. Not stored yet.

    `kind` is model, tool or feature. Sale prices are in `currency`, per 1,000 tokens, request and `unit`; `cached_input_per_1k` None:
    as other input. Costs are what the provider charges us, None where that is not known. `valid_from` None: whoever reads it decides.
    """

    kind: str
    subject: str
    currency: str
    input_per_1k: Decimal = Decimal(0)
    output_per_1k: Decimal = Decimal(0)
    cached_input_per_1k: Decimal | None = None
    per_request: Decimal = Decimal(0)
    unit: str | None = None
    per_unit: Decimal = Decimal(0)
    bills_errors: bool = False
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    cost_input_per_1k: Decimal | None = None
    cost_output_per_1k: Decimal | None = None
    cost_cached_input_per_1k: Decimal | None = None
    cost_per_request: Decimal | None = None
    cost_per_unit: Decimal | None = None
    note: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.subject} in {self.currency}"


def read_price_file(path: Path) -> list[NewPrice]:
    """Return the prices of a file, `.csv` or JSON. Raises `PriceRefused` that names the entry, and `OSError`."""
    text = path.read_text(encoding="utf-8-sig")
    found = []
    for place, entry in _rows(text, path) if path.suffix.lower() == ".csv" else _objects(text, path):
        try:
            found.append(new_price(entry))
        except PriceRefused as refused:
            raise PriceRefused(f"{path.name}, {place}: {refused}") from None
    if not found:
        raise PriceRefused(f"{path.name} holds no prices")
    return found


def new_price(entry: Mapping[str, Any]) -> NewPrice:
    """Return one price from what was written of it; empty texts and null are as if not given. Raises `PriceRefused`."""
    given = {name: value for name, value in entry.items() if value is not None and value != ""}
    if unknown := given.keys() - set(FIELDS):
        raise PriceRefused(f"'{min(unknown)}' is not part of a price: known are {', '.join(FIELDS)}")
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        raise PriceRefused("a price is of exactly one of model, tool and feature")
    amounts = {name: parse_amount(name, given[name]) for name in (*AMOUNTS, *OPTIONAL_AMOUNTS) if name in given}
    price = NewPrice(
        kind=kinds[0],
        subject=str(given[kinds[0]]),
        currency=_currency(given.get("currency")),
        unit=_unit(given),
        bills_errors=_flag("bills_errors", given.get("bills_errors", False)),
        valid_from=_hour("valid_from", given.get("valid_from")),
        valid_to=_hour("valid_to", given.get("valid_to")),
        note=str(given["note"]) if "note" in given else None,
        **amounts,
    )
    if price.valid_from and price.valid_to and price.valid_from >= price.valid_to:
        raise PriceRefused(f"the price of {price} would end before it begins")
    return price


def read_json(text: str, path: Path, advice: str = "") -> Any:
    """Return what the text of a file says, every digit kept. Raises `PriceRefused`."""
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise PriceRefused(f"{path.name} is not JSON ({error}){advice}") from None


def _objects(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    document = read_json(text, path, "; a file of another kind is named .csv")
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise PriceRefused(f"{path.name} is not a list of prices: write [{{…}}, …]")
    yield from ((f"entry {number}", entry) for number, entry in enumerate(document, start=1))


def _rows(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise PriceRefused(f"{path.name}, line {reader.line_num}: has another number of cells than the header")
            yield f"line {reader.line_num}", {name.strip(): cell.strip() for name, cell in row.items()}
    except csv.Error as error:
        raise PriceRefused(f"{path.name}, line {reader.line_num}: {error}") from None


def parse_amount(name: str, given: object) -> Decimal:
    """Return an exact amount, not negative, within the digits that are kept. Raises `PriceRefused` that names it."""
    try:
        amount = Decimal(given) if isinstance(given, str | int | Decimal) and not isinstance(given, bool) else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite():
        raise PriceRefused(f"{name} is {given!r}: write a number such as 0.0025")
    if amount < 0:
        raise PriceRefused(f"{name} is {given}: a price is never negative")
    before, after = MOST_DIGITS
    normal = amount.normalize()
    if isinstance(normal.as_tuple().exponent, int) and -int(normal.as_tuple().exponent) > after:
        raise PriceRefused(f"{name} is {given}: more than {after} digits after the point")
    if normal.adjusted() >= before:
        raise PriceRefused(f"{name} is {given}: more than {before} digits before the point")
    return amount


def _currency(given: object) -> str:
    if isinstance(given, str) and len(given) == 3 and given.isascii() and given.isalpha() and given.isupper():
        return given
    raise PriceRefused(f"currency is {given!r}: a three-letter code such as EUR is expected")


def _unit(given: Mapping[str, Any]) -> str | None:
    unit = given.get("unit")
    if unit is not None and unit not in UNITS:
        raise PriceRefused(f"unit is {unit!r}: known are {', '.join(UNITS)}")
    if (unit is None) != ("per_unit" not in given):
        raise PriceRefused("unit and per_unit belong together: what is counted, and what one of it costs")
    return unit


def _flag(name: str, given: object) -> bool:
    if isinstance(given, bool):
        return given
    words = {"true": True, "yes": True, "false": False, "no": False}
    if isinstance(given, str) and given.lower() in words:
        return words[given.lower()]
    raise PriceRefused(f"{name} is {given!r}: true or false is expected")


def _hour(name: str, given: object) -> datetime | None:
    return None if given is None else parse_hour(name, str(given))


def parse_hour(name: str, text: str) -> datetime:
    """Return an instant on a UTC hour; a date is its first. Raises `PriceRefused`: usage is summed by hour before it is rated."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise PriceRefused(f"{name} is '{text}': write a time such as 2026-12-01T00:00:00Z") from None
    if at.tzinfo is None:
        if len(text) > len("2026-12-01"):
            raise PriceRefused(f"{name} is '{text}', without a time zone: add one, for example a trailing Z")
        at = at.replace(tzinfo=UTC)
    if utc(at) != hour_start(at):
        raise PriceRefused(f"{name} is '{text}': prices begin and end on whole UTC hours")
    return utc(at)
