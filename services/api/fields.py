"""What bodies and answers are made of: exact amounts, times with a zone, and objects that know their fields."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from shared.period import utc

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]")
_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_PATTERN: Final = r"^-?[0-9]{1,15}(\.[0-9]{1,18})?$"


def _no_float(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError('write an amount as a string, like "12.50": a JSON number with a point is not exact')
    return value


def _plain(value: Decimal) -> Decimal:
    if not value.is_finite() or value.adjusted() > 14 or -int(value.as_tuple().exponent) > 18:
        raise ValueError("an amount has at most 15 digits before the point and 18 behind it")
    return value


def _written_out(value: Any) -> Any:
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATE.match(value)):
        raise ValueError("write a time with its date and zone, like 2026-11-02T00:00:00Z")
    return value


def _of_this_age(value: datetime) -> datetime:
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ValueError(f"a time lies between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    return utc(value)


Amount = Annotated[
    Decimal,
    BeforeValidator(_no_float),
    AfterValidator(_plain),
    PlainSerializer(lambda value: f"{value:f}", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["12.50"]}),
]
"""Money or credits: a decimal string, exact."""

Exact = Annotated[
    Decimal,
    PlainSerializer(lambda value: f"{value:f}", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$", "examples": ["12.50"]}),
]
"""An amount of ours in an answer: a decimal string with all the digits that it has."""

Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_written_out),
    AfterValidator(_of_this_age),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-02T00:00:00Z"]}),
]
"""A time with a zone; a time without one is refused."""

Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
"""A name or a short text. Postgres has no character NUL."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00]+$")]
"""A name as events have it: of a model, of a key."""


class Body(BaseModel):
    """What a client sends. A field that is not known is an error: it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid", str_max_length=10_000, frozen=True)


class Answer(BaseModel):
    """What a client gets."""

    model_config = ConfigDict(frozen=True)
