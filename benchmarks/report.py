"""The figures of a run as a page with a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.plot import plot
from benchmarks.sizes import POSTGRES
from benchmarks.verdict import Verdict, verdicts


def write_report(parts: Mapping[str, Mapping[str, Any]], directory: Path | None) -> str:
    """Return what the parts found as Markdown; with a directory, write it there as performance.md, with performance.svg beside it."""
    found = {name: part["figures"] for name, part in parts.items()}
    lines = _asked(found)
    for name, section in _SECTIONS.items():
        if name in found:
            lines += [*section(found[name]), _measured(parts[name]), ""]
    if directory is not None:
        head = [_HEAD]
        if turns := found.get("copy") or found.get("peer"):
            (directory / "performance.svg").write_text(plot(turns), encoding="utf-8")
            head.append("![Events a second beside raw COPY, which is the limit](performance.svg)\n")
        (directory / "performance.md").write_text("\n".join([*head, *lines]), encoding="utf-8")
    return "\n".join(lines)


_HEAD = f"""# How fast it is

Measured by `make bench` (`python -m benchmarks.suite --report`), which writes this page and its plot. All of it runs on one machine: broker, database and
workers share its cores. Postgres has {POSTGRES["shared_buffers"]} of shared buffers and {POSTGRES["max_wal_size"]} of WAL between checkpoints, else what `make demo` gives it. Believe the ratios, not the rates. What the columns mean is in [the explanation](../explanation/performance.md).
"""


def _asked(found: Mapping[str, Any]) -> list[str]:
    lines = verdicts(found)
    return ["## Asked and reached", "", *_table(("what", "asked", "ours", "limit", "peers", "reached"), lines, left=Verdict._fields)] if lines else []  # fmt: skip


def _measured(part: Mapping[str, Any]) -> str:
    """Say where and when: each part may be of another run."""
    where = part["machine"]
    said = (
        f"*{where['at']}, commit {where['commit']}{' with changes' if where['changed'] else ''}, `{where['command']}`, {part['seconds']} s; {where['processor']}, "
        f"{where['cores']} cores, {where['memory_gib']} GiB, Python {where['python']}, sweep {'compiled' if where.get('compiled') else 'in Python'}; load before {where['load_before'][0]}.*"
    )
    if where["load_before"][0] > where["cores"]:
        return f"{said} **The machine was busy with other programs: CPU and bytes are worth something, rates and latencies are not.**"
    return said


def _turns(copy: Mapping[str, Any]) -> list[str]:
    limit, ours = copy["raw COPY"]["events_per_second"], copy["ours"]
    rows = [
        (
            name, _count(one["events_per_second"]), f"{one['events_per_second'] / limit:.3f}"[:5],
            "–" if name.startswith("ours") else f"{ours['events_per_second'] / one['events_per_second']:.2f}",
            *(_figure(one, column) for column in ("worker_us", "postgres_us", "kafka_us", "wal_bytes", "memory_mib")),
        )
        for name, one in copy.items()
    ]  # fmt: skip
    return [
        "## One worker beside its limit and its peers",
        "",
        *_table(("median of the rounds", "events/s", "÷ raw COPY", "ours ÷ it", "client µs", "Postgres µs", "Kafka µs", "WAL bytes", "MiB"), rows),
        "Client, Postgres and Kafka are microseconds of CPU for an event, as the system accounts for them.",
        f"Of the log, an event takes {ours['log_bytes']:.0f} bytes in the table and {ours['log_indexes_bytes']:.0f} in its indexes; its identity "
        f"{ours['identities_bytes']:.0f} and {ours['identities_index_bytes']:.0f}.",
        "",
    ]  # fmt: skip


def _peer(found: Mapping[str, Any]) -> list[str]:
    return ["## One worker beside Kafka Connect", "", *_turns(found)[2:]]


def _scale(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (n, _count(one["events_per_second"]), _figure(one, "worker_us"), _figure(one, "postgres_us"))
        for n, one in found.items()
    ]
    return ["## More workers", "", *_table(("ingest workers", "events/s", "worker µs", "Postgres µs"), rows)]


def _pipeline(one: Mapping[str, Any]) -> list[str]:
    return [
        "## The whole pipeline",
        "",
        f"A backlog through ingest, aggregator and billing, one worker each, until everything is summed up, rated, settled and published: "
        f"{_count(one['events_per_second'])} events/s; {one['worker_us']} µs of the workers' CPU for an event, {one['postgres_us']} of Postgres, "
        f"{one['kafka_us']} of Kafka. One subscription of ten is prepaid: {one['debits']:,} debits. All {one['checks']} checks of `tallystick reconcile` hold.",
        "",
    ]


def _alone(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (name, _count(found[name]["events_per_second"]), _figure(found[name], "worker_us"))
        for name in ("aggregator", "billing")
    ]
    return ["## The readers alone", "", *_table(("service", "events/s", "worker µs"), rows)]


def _freshness(found: Mapping[str, Any]) -> list[str]:
    kinds = ("row", "summary", "suspension")
    rows = [
        (_count(int(rate)), *(f"{one[kind][p]:.2f} s" for kind in kinds for p in ("p50", "p99")))
        for rate, one in found.items()
    ]
    return [
        "## Freshness under an open load",
        "",
        *_table(("events/s", *(f"{kind} {p}" for kind in kinds for p in ("p50", "p99"))), rows),
        "From the moment at which an event was due to be sent until it can be read, looked at every 20 ms. A suspension: from the event that reached a quota until "
        "gateways' topic says so.",
        "",
    ]


def _soak(one: Mapping[str, Any]) -> list[str]:
    behind, memory = one["behind"], one["memory"]
    return [
        "## An open load for longer",
        "",
        f"{one['rate']:,} events/s were sent to the whole pipeline for {one['minutes']:g} minutes, {one['sent']:,} in all. {one['settled_seconds']} s after the last one all effects "
        f"were there: {one['events_per_second']:,} events/s, with {one['worker_us']} µs of the workers' CPU for an event, {one['postgres_us']} of Postgres and {one['kafka_us']} of "
        f"Kafka, {one['debits']:,} debits of prepaid credits. All {one['checks']} checks of `tallystick reconcile` hold.",
        "",
        *_table(("behind the load by", "median", "most"), [(name, f"{s['median']:.2f} s", f"{s['most']:.2f} s") for name, s in behind.items()]),
        *_table(
            ("memory in MiB", "least", "median", "most", "MiB a minute"),
            [(name, _figure(m, "least"), _figure(m, "median"), _figure(m, "most"), f"{m['mib_a_minute']:+.2f}") for name, m in memory.items()],
        ),
        "The slope is that of the last three quarters.",
        "",
    ]  # fmt: skip


def _catch_up(one: Mapping[str, Any]) -> list[str]:
    how = "nothing was behind any more" if one["caught_up"] else "**it was still behind**"
    return [
        "## After an outage",
        "",
        f"All workers were gone for {one['minutes']:g} minutes, while {one['rate']:,} events/s went on being sent: {one['missed']:,} were waiting. With the load still going on, "
        f"{one['seconds']} s after the workers were started again {how} ({one['events_per_second']:,} events/s). All {one['checks']} checks of `tallystick reconcile` hold.",
        "",
    ]


def _growth(found: Mapping[str, Any]) -> list[str]:
    sizes = sorted(found, key=int)
    none, names = found["0"], list(found["0"]["queries_ms"])
    rows = [
        (
            _count(int(size)), _count(found[size]["events_per_second"]), f"{found[size]['events_per_second'] / none['events_per_second']:.2f}",
            *(_figure(found[size], name) for name in ("worker_us", "postgres_us", "wal_bytes")), _count(found[size]["aggregator_events_per_second"]),
            _figure(found[size], "aggregator_us"),
        )
        for size in sizes
    ]  # fmt: skip
    asked = [(name, *(f"{found[size]['queries_ms'][name]:,.1f}" for size in sizes)) for name in names]
    return [
        "## With a log that is large already",
        "",
        *_table(("rows before", "events/s", "÷ at 0", "worker µs", "Postgres µs", "WAL bytes", "aggregator's events/s", "its µs"), rows),
        *_table(("p95 in ms, rows before:", *(_count(int(size)) for size in sizes)), asked),
        "One database grows. The rows that are there beforehand were made in SQL: 140,000 an hour into the past, of 2,000 subscriptions of which few are busy, with identities "
        "in generations of ten million, summaries and rated usage. They are lean: names and no other texts, no metadata.",
        "",
    ]  # fmt: skip


_SECTIONS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "copy": _turns, "peer": _peer, "scale": _scale, "pipeline": _pipeline, "alone": _alone, "freshness": _freshness, "soak": _soak,
    "catch_up": _catch_up, "growth": _growth,
}  # fmt: skip


def _table(head: tuple[str, ...], rows: list[Any], left: tuple[str, ...] = ("",)) -> list[str]:
    rule = ["---" if number < len(left) else "---:" for number in range(len(head))]
    return [_line(head), _line(rule), *map(_line, rows), ""]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _count(number: float) -> str:
    return f"{round(number):,}"


def _figure(one: Mapping[str, Any], name: str) -> str:
    return f"{one[name]:.1f}".removesuffix(".0") if name in one else "–"
