"""Which spans a batch names as its causes: those that its records tell of, each once, and not without end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shared.spans import MOST_LINKS, causes_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def record(*headers: tuple[str, bytes]) -> Any:
    return SimpleNamespace(headers=headers)


def traceparent(span: int) -> bytes:
    return f"00-{TRACE}-{span:016x}-01".encode()


def test_each_cause_is_named_once_whatever_the_header() -> None:
    records = [
        record(("traceparent", traceparent(1))),
        record(("content-type", b"x"), ("ce_traceparent", traceparent(2))),
        record(("traceparent", traceparent(1))),
        record(),
    ]
    assert [cause.span_id for cause in causes_of(records)] == [1, 2]


def test_what_is_no_context_is_passed_over() -> None:
    wrong = (b"", b"\xff\xfe", b"00-0-0-0", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"nonsense")
    assert causes_of([record(("traceparent", value)) for value in wrong]) == []


def test_the_links_of_a_batch_are_bounded() -> None:
    assert len(causes_of(record(("traceparent", traceparent(n + 1))) for n in range(10_000))) == MOST_LINKS
