"""A recorded trace (CSV: TIMESTAMP, ContextTokens, GeneratedTokens) as usage events: exactly its rows, the same each time.

Who used which model is not in a trace: it is assigned, by a generator that is seeded with the file's digest. Ids, times and
assignment follow from the file and the start day alone, so that a second replay adds nothing.
"""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Final

from services.cli.demo.books import Expected
from services.cli.demo.events import Model, Subscriber, encode
from services.cli.demo.record import Record
from shared.contracts import MAX_COUNT, SPEC_VERSION, USAGE_TYPE
from shared.errors import ConfigurationError
from shared.period import month_start

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
SUBSCRIBERS: Final = 64
"""Subscriptions that a trace is spread over: the first ones, so that later sign-ups do not change the assignment."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace; `number` counts from 1."""

    number: int
    at: datetime
    request_tokens: int
    response_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace file that was read through once: every row of it is sound."""

    path: Path
    digest: str
    rows: int
    first: datetime
    last: datetime

    def span(self, start: date) -> tuple[datetime, datetime]:
        """Return the first and last event time when its first day is moved to `start`."""
        return self.first + self.shift(start), self.last + self.shift(start)

    def shift(self, start: date) -> timedelta:
        """Return by how much times move: whole days, so that the time of day stays."""
        return start - self.first.date()


def inspect(path: Path) -> Trace:
    """Read a trace through. Raises `ConfigurationError` that names the line and what is wrong with it."""
    count, first, last = 0, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    for row in read(path):
        count, first, last = row.number, min(first, row.at), max(last, row.at)
    if count == 0:
        raise ConfigurationError(f"{path} has a header but no rows: there is nothing to replay")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Trace(path, digest, count, first, last)


def read(path: Path) -> Iterator[Row]:
    """Yield the rows of a trace in their order. Raises `ConfigurationError` as `inspect` does."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (lines.fieldnames or ())]:
                raise ConfigurationError(
                    f"{path}, line 1: no column {', '.join(missing)}; a trace has the columns {','.join(COLUMNS)}"
                )
            for number, fields in enumerate(lines, start=1):
                yield _row(number, fields, f"{path}, line {lines.line_num}")
    except FileNotFoundError:
        raise ConfigurationError(f"there is no file {path}: name a CSV with the columns {','.join(COLUMNS)}") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): name a CSV with the columns {','.join(COLUMNS)}"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(
            f"{path} is not a CSV in UTF-8 ({error}): name one with the columns {','.join(COLUMNS)}"
        ) from None


def _row(number: int, fields: dict[str, str | None], place: str) -> Row:
    time, *counts = (fields[name] or "" for name in COLUMNS)
    try:
        at = datetime.fromisoformat(time.strip())
    except ValueError:
        raise ConfigurationError(
            f"{place}: TIMESTAMP is '{time}', not a time such as 2023-11-16 18:15:46.6805900"
        ) from None
    request_tokens, response_tokens = (
        _count(text, f"{place}: {name}") for text, name in zip(counts, COLUMNS[1:], strict=True)
    )
    return Row(
        number, at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC), request_tokens, response_tokens
    )


def _count(text: str, place: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = -1
    if not 0 <= count <= MAX_COUNT:
        raise ConfigurationError(f"{place} is '{text}', not a whole number of tokens from 0 to {MAX_COUNT}")
    return count


def default_start(now: datetime) -> date:
    """Return the second-to-last day of the previous month: over, still within the late window, ready to be invoiced."""
    return (month_start(now) - timedelta(days=2)).date()


def check_window(trace: Trace, start: date, now: datetime, late: timedelta) -> None:
    """Raise `ConfigurationError` if ingest would refuse a part of the trace, because it is too old or in the future."""
    first, last = trace.span(start)
    if first < now - late or last > now:
        raise ConfigurationError(
            f"the trace would lie from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, but ingest takes usage from "
            f"{now - late:%Y-%m-%d %H:%M} until now: choose another day with --start"
        )


def source_of(trace: Trace, start: date) -> str:
    """Return the CloudEvents source of a trace's events: another file or another day is another source."""
    return f"/trace/{trace.digest[:12]}/{start.isoformat()}"


class TraceTraffic:
    """The records of one trace on one start day; `expected` grows with what has been drawn."""

    def __init__(self, trace: Trace, start: date, subscribers: Sequence[Subscriber], models: Sequence[Model]) -> None:
        self.expected = Expected()
        self._trace, self._start = trace, start
        self._models = {model.id: model for model in models if model.answers}  # every row of a trace has an answer
        self._subscribers = [s for s in subscribers if s.model is None or s.model in self._models][:SUBSCRIBERS]

    def records(self) -> Iterator[Record]:
        """Yield one record for each row, in the order of the file."""
        rng = random.Random(self._trace.digest)
        shift = self._trace.shift(self._start)
        source = source_of(self._trace, self._start)
        weights = list(accumulate(1 / (rank + 2) for rank in range(len(self._subscribers))))
        model_ids = sorted(self._models)
        for row in read(self._trace.path):
            subscriber = rng.choices(self._subscribers, cum_weights=weights)[0]
            any_model = rng.choice(model_ids)
            model = self._models[subscriber.model or any_model]
            self.expected.accept(
                subscriber.subscription_id,
                error=False,
                request_tokens=row.request_tokens,
                response_tokens=row.response_tokens,
                cached_tokens=0,
            )
            yield _record(row, row.at + shift, source, subscriber, model)


def _record(row: Row, at: datetime, source: str, subscriber: Subscriber, model: Model) -> Record:
    event = {
        "specversion": SPEC_VERSION,
        "id": f"trace-{row.number}",
        "source": source,
        "type": USAGE_TYPE,
        "time": at,
        "subject": subscriber.subscription_id,
        "data": {
            "model": model.id,
            "provider": model.provider,
            "request_tokens": row.request_tokens,
            "response_tokens": row.response_tokens,
            "status_code": 200,
            "feature_type": "chat",
        },
    }
    return Record(subscriber.subscription_id.encode(), encode(event))
