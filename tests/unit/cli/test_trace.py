"""Traces: exactly the rows of the file, the same events each time, and one line that says what is wrong with a bad one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from services.cli.demo.events import Model, Subscriber
from services.cli.demo.trace import Row, TraceTraffic, check_window, default_start, inspect, read
from services.ingest.acceptance import Limits, accept
from shared.contracts import UsageEvent
from shared.errors import ConfigurationError

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SUBSCRIBERS = [Subscriber(str(UUID(int=n)), "gpt-4o" if n % 2 else None) for n in range(1, 80)]
MODELS = [Model("gpt-4o", "openai"), Model("claude-sonnet", "anthropic")]


def write(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_keep_their_tokens_and_their_times_to_the_microsecond(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16T19:15:50.5+01:00,0,0\n")

    assert list(read(path)) == [
        Row(1, datetime(2023, 11, 16, 18, 15, 46, 680590, UTC), 374, 44),
        Row(2, datetime(2023, 11, 16, 18, 15, 50, 500000, UTC), 0, 0),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TIMESTAMP,ContextTokens\n", "line 1: no column GeneratedTokens"),
        ("", "line 1: no column TIMESTAMP, ContextTokens, GeneratedTokens"),
        (HEADER + "2023-11-16 18:15:46,1,2\nyesterday,1,2\n", "line 3: TIMESTAMP is 'yesterday'"),
        (HEADER + "2023-11-16 18:15:46,many,2\n", "line 2: ContextTokens is 'many'"),
        (HEADER + "2023-11-16 18:15:46,1,-2\n", "line 2: GeneratedTokens is '-2'"),
        (HEADER + "2023-11-16 18:15:46,1\n", "line 2: GeneratedTokens is ''"),
        (HEADER, "has a header but no rows"),
    ],
)
def test_a_bad_file_is_refused_by_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        inspect(write(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_one_that_is_not_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        inspect(tmp_path / "nothing.csv")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        inspect(tmp_path)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not a CSV in UTF-8"):
        inspect(binary)


def test_the_default_day_is_the_second_to_last_of_the_previous_month() -> None:
    assert default_start(datetime(2026, 11, 21, tzinfo=UTC)) == date(2026, 10, 30)
    assert default_start(datetime(2028, 3, 31, 23, tzinfo=UTC)) == date(2028, 2, 28)
    assert default_start(datetime(2026, 1, 1, tzinfo=UTC)) == date(2025, 12, 30)


def test_a_day_that_ingest_would_refuse_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    trace = inspect(write(tmp_path, HEADER + "2023-11-16 18:15:46,1,2\n2023-11-17 09:00:00,1,2\n"))
    now = datetime(2026, 11, 21, 8, tzinfo=UTC)

    check_window(trace, date(2026, 10, 30), now, timedelta(days=35))
    for day in (date(2026, 10, 1), date(2026, 11, 20), date(2027, 1, 1)):
        with pytest.raises(ConfigurationError, match="--start"):
            check_window(trace, day, now, timedelta(days=35))


def test_a_replay_is_the_rows_of_the_file_moved_to_another_day_and_always_the_same(tmp_path: Path) -> None:
    rows = "".join(f"2023-11-16 18:15:{second:02}.25,{100 + second},{second}\n" for second in range(60))
    trace = inspect(write(tmp_path, HEADER + rows))
    start = date(2026, 10, 30)
    limits = Limits()

    traffic = TraceTraffic(trace, start, SUBSCRIBERS, MODELS)
    records = list(traffic.records())
    events = [accept(r.value, r.headers, limits, *limits.window(datetime(2026, 11, 21, tzinfo=UTC))) for r in records]

    assert all(isinstance(event, UsageEvent) for event in events)
    first = msgspec.json.decode(records[0].value or b"", type=UsageEvent)
    assert (first.id, first.time) == ("trace-1", datetime(2026, 10, 30, 18, 15, 0, 250000, UTC))
    assert traffic.expected.usage.as_tuple() == (60, 0, 60 * 100 + 1770, 1770, 0)
    assert records == list(TraceTraffic(trace, start, [*SUBSCRIBERS, Subscriber(str(UUID(int=999)))], MODELS).records())
    other_day = list(TraceTraffic(trace, date(2026, 10, 29), SUBSCRIBERS, MODELS).records())
    assert {r.key for r in other_day} == {r.key for r in records}
    assert msgspec.json.decode(other_day[0].value or b"", type=UsageEvent).source != first.source
