"""The figures of a run as a page with a plot."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

_BAR, _LEFT, _WIDTH, _ROW = 420, 190, 720, 34


def write_report(found: Mapping[str, Any], directory: Path | None) -> str:
    """Return the figures as Markdown; with a directory, write them there as performance.md, with performance.svg beside it."""
    text = "\n".join(_lines(found))
    if directory is not None:
        page = [_HEAD, text]
        if "copy" in found:
            (directory / "performance.svg").write_text(plot(found["copy"]), encoding="utf-8")
            page.insert(1, "![Events a second beside raw COPY, which is the limit](performance.svg)\n")
        (directory / "performance.md").write_text("\n".join(page), encoding="utf-8")
    return text


_HEAD = """# How fast it is

Measured by `make bench` (`python -m benchmarks.suite --report`), which writes this page and its plot. All of it runs on one machine: broker, database and
workers share its cores. Believe the ratios, not the rates. What the columns mean is in [the explanation](../explanation/performance.md).
"""


def _lines(found: Mapping[str, Any]) -> list[str]:
    where = found["machine"]
    lines = [
        f"Commit {where['commit']}{' with changes' if where['changed'] else ''}, {where['at']}: {where['processor']}, {where['cores']} cores, {where['memory_gib']} GiB, "
        f"Python {where['python']}; load before the run {', '.join(map(str, where['load_before']))}. {found['events']:,} events of {found['record_bytes']} bytes.",
        "",
    ]
    if where["load_before"][0] > where["cores"]:
        lines += [
            "**The machine was busy with other programs.** CPU and bytes are worth something, rates and latencies are not: run it where nothing else runs.",
            "",
        ]
    if "copy" in found:
        copy, limit = found["copy"], found["copy"]["raw COPY"]["events_per_second"]
        lines += ["## One worker beside its limit and its peers", ""]
        lines += _table(
            ("median of the rounds", "events/s", "÷ raw COPY", "ours ÷ it", "client µs", "Postgres µs", "Kafka µs", "WAL bytes", "MiB"),
            [
                (
                    name, _count(one["events_per_second"]), f"{one['events_per_second'] / limit:.2f}",
                    "–" if name == "ours" else f"{copy['ours']['events_per_second'] / one['events_per_second']:.2f}",
                    *(_figure(one, column) for column in ("worker_us", "postgres_us", "kafka_us", "wal_bytes", "memory_mib")),
                )
                for name, one in copy.items()
            ],
        )  # fmt: skip
        ours = copy["ours"]
        lines += [
            "Client, Postgres and Kafka are microseconds of CPU for an event, as the system accounts for them.",
            f"Of the log, an event takes {ours['log_bytes']:.0f} bytes in the table and {ours['log_indexes_bytes']:.0f} in its indexes; its identity "
            f"{ours['identities_bytes']:.0f} and {ours['identities_index_bytes']:.0f}.",
            "",
        ]
    if "scale" in found:
        lines += ["## More workers", ""]
        lines += _table(
            ("ingest workers", "events/s", "worker µs", "Postgres µs"),
            [(str(n), _count(one["events_per_second"]), _figure(one, "worker_us"), _figure(one, "postgres_us")) for n, one in found["scale"].items()],
        )  # fmt: skip
    if "pipeline" in found:
        one = found["pipeline"]
        lines += [
            "## The whole pipeline",
            "",
            f"A backlog through ingest, aggregator and billing, one worker each, until everything is summed up, rated, settled and published: "
            f"{_count(one['events_per_second'])} events/s; {one['worker_us']} µs of the workers' CPU for an event, {one['postgres_us']} of Postgres, "
            f"{one['kafka_us']} of Kafka. All {one['checks']} checks of `tallystick reconcile` hold.",
            "",
        ]
    if "alone" in found:
        lines += ["## The readers alone", ""]
        lines += _table(
            ("service", "events/s", "worker µs"),
            [(name, _count(found["alone"][name]["events_per_second"]), _figure(found["alone"][name], "worker_us")) for name in ("aggregator", "billing")],
        )  # fmt: skip
    if "freshness" in found:
        lines += ["## Freshness under an open load", ""]
        lines += _table(
            ("events/s", "row p50", "row p99", "summary p50", "summary p99"),
            [
                (
                    _count(int(rate)),
                    *(f"{one[kind][p]:.2f} s" for kind in ("row", "summary") for p in ("p50", "p99")),
                )
                for rate, one in found["freshness"].items()
            ],
        )
        lines += [
            "From the moment at which an event was due to be sent until it can be read, looked at every 20 ms.",
            "",
        ]
    if "growth" in found:
        sizes = list(found["growth"].items())
        lines += ["## With a log that is large already", ""]
        names = [name for name in sizes[0][1] if name != "events_per_second"]
        lines += _table(
            ("rows before", "events/s", "÷ at 0", *(f"{name}, p95 ms" for name in names)),
            [
                (
                    _count(int(size)), _count(one["events_per_second"]), f"{one['events_per_second'] / sizes[0][1]['events_per_second']:.2f}",
                    *(f"{one[name]:.1f}" for name in names),
                )
                for size, one in sizes
            ],
        )  # fmt: skip
    return lines


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [_line(head), _line(("---", *["---:"] * (len(head) - 1))), *map(_line, rows), ""]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _count(number: float) -> str:
    return f"{round(number):,}"


def _figure(one: Mapping[str, Any], name: str) -> str:
    return f"{one[name]:.1f}".removesuffix(".0") if name in one else "–"


def plot(copy: Mapping[str, Mapping[str, Any]]) -> str:
    """Return bars of the rates as SVG, with a line at raw COPY."""
    most = max(one["events_per_second"] for one in copy.values())
    limit = copy["raw COPY"]["events_per_second"]
    height = _ROW * len(copy) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="14" role="img">',
        "<title>Events a second: raw COPY, Tallystick and its peers</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, one) in enumerate(copy.items()):
        top, rate = 12 + number * _ROW, one["events_per_second"]
        length = max(1, round(_BAR * rate / most))
        colour = "#0b6e4f" if name == "ours" else "#9aa5b1"
        parts += [
            f'<text x="{_LEFT - 10}" y="{top + 16}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{length}" height="22" fill="{colour}"/>',
            f'<text x="{_LEFT + length + 6}" y="{top + 16}">{rate:,.0f} ({rate / limit:.2f})</text>',
        ]
    at = _LEFT + round(_BAR * limit / most)
    parts.append(f'<line x1="{at}" y1="4" x2="{at}" y2="{height - 18}" stroke="#c0392b" stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</svg>", ""])
