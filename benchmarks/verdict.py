"""What is asked of the hot path, beside what was found: the first table of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

PEER = "Kafka Connect"
LOG_ROWS, SOAK_MINUTES = 100_000_000, 10.0
"""The sizes for which figures are asked: what is measured with less says nothing about those."""
FLAT_MIB_A_MINUTE = 1.0
STANDING_SECONDS = 10.0
"""A load that never left anything further behind than this is one that the pipeline stands."""
NOT_YET = "not at this size"

Found = Mapping[str, Mapping[str, Any]]


class Verdict(NamedTuple):
    """A line of the table."""

    what: str
    asked: str
    ours: str
    limit: str
    peers: str
    reached: str


def verdicts(found: Found) -> list[Verdict]:
    """Return a line for each figure that is asked and was measured. `found` are the figures of each part by its name."""
    return [line for lines in _LINES for line in lines(found)]


def turns_of(found: Found, name: str) -> Mapping[str, Any] | None:
    """Return who took turns with `name`, in the part that has it."""
    return next((found[part] for part in ("copy", "peer") if part in found and name in found[part]), None)


def _yes(holds: bool, *, enough: bool = True) -> str:
    return ("yes" if holds else "no") if enough else NOT_YET


def _rate(turns: Mapping[str, Any], name: str) -> float:
    return float(turns[name]["events_per_second"])


def _beside_copy(found: Found) -> Iterator[Verdict]:
    if turns := turns_of(found, "raw COPY"):
        limit, ours = _rate(turns, "raw COPY"), _rate(turns, "ours") / _rate(turns, "raw COPY")
        shares = {name: part[name]["events_per_second"] / part["raw COPY"]["events_per_second"]
                  for name in (PEER, "naive worker", "row inserts") if (part := turns_of(found, name))}  # fmt: skip
        peers = ", ".join(f"{name} {share:.2f}" for name, share in shares.items()) or "–"
        yield Verdict(
            "one worker ÷ raw COPY",
            "0.65, aim 0.80",
            f"{ours:.2f}",
            f"1 ({limit:,.0f} events/s)",
            peers,
            _yes(ours >= 0.65),
        )


def _beside_naive(found: Found) -> Iterator[Verdict]:
    for name, asked in (("naive worker", 10), ("row inserts", 30)):
        if turns := turns_of(found, name):
            times = _rate(turns, "ours") / _rate(turns, name)
            yield Verdict(
                f"÷ {name}",
                str(asked),
                f"{times:.1f}",
                "–",
                f"{_rate(turns, name):,.0f} events/s",
                _yes(times >= asked),
            )


def _beside_peer(found: Found) -> Iterator[Verdict]:
    if turns := turns_of(found, PEER):
        times = _rate(turns, "ours") / _rate(turns, PEER)
        share = turns["ours"]["memory_mib"] / turns[PEER]["memory_mib"]
        yield Verdict(
            f"÷ {PEER} with Debezium's JDBC sink",
            "1.6, aim 2",
            f"{times:.2f}",
            "–",
            f"{_rate(turns, PEER):,.0f} events/s",
            _yes(times >= 1.6),
        )
        yield Verdict(
            "its memory ÷ that",
            "at most 0.2",
            f"{share:.2f}",
            "–",
            f"{turns[PEER]['memory_mib']:,.0f} MiB",
            _yes(share <= 0.2),
        )


def _pipeline(found: Found) -> Iterator[Verdict]:
    if soak := found.get("soak"):
        minutes, rate, behind = soak["minutes"], soak["events_per_second"], _most_behind(soak)
        if behind <= STANDING_SECONDS:  # it stood the load: what was sent last is all that is missing from the rate
            rate = soak["rate"]
        ours = f"{rate:,} for {minutes:g} min, sent at {soak['rate']:,}, {behind:.1f} s behind at most"
        yield Verdict("whole pipeline, events/s for 10 min, all effects there", "40,000, aim 60,000", ours, "–", "–",
                      _yes(rate >= 40_000, enough=minutes >= SOAK_MINUTES))  # fmt: skip


def _most_behind(soak: Mapping[str, Any]) -> float:
    """Return the most seconds that any effect was behind the load, at its end or before."""
    return float(max(soak["settled_seconds"], *(one["most"] for one in soak["behind"].values())))


def _freshness(found: Found) -> Iterator[Verdict]:
    if one := found.get("freshness", {}).get("20000"):
        seconds = [one[kind]["p99"] for kind in ("row", "summary", "suspension")]
        ours = " · ".join(f"{p99:.2f}" for p99 in seconds)
        holds = all(p99 <= most for p99, most in zip(seconds, (2, 3, 3), strict=True))
        yield Verdict(
            "freshness at 20,000 events/s, p99 in s: row · summary · suspension",
            "at most 2 · 3 · 3",
            ours,
            "–",
            "–",
            _yes(holds),
        )


def _growth(found: Found) -> Iterator[Verdict]:
    if sizes := found.get("growth"):
        most = max(sizes, key=int)
        share = sizes[most]["events_per_second"] / sizes["0"]["events_per_second"]
        enough, at = int(most) >= LOG_ROWS, f"at {int(most):,} rows"
        slowest = max(sizes[most]["queries_ms"].items(), key=lambda one: one[1])
        yield Verdict(
            "rate at 100 million rows ÷ at none",
            "0.9",
            f"{share:.2f} {at}",
            "–",
            "–",
            _yes(share >= 0.9, enough=enough),
        )
        within = sum(ms <= 50 for ms in sizes[most]["queries_ms"].values())
        yield Verdict("queries at 100 million rows, p95 in ms", "at most 50", f"{within} of {len(sizes[most]['queries_ms'])} {at}; the slowest {slowest[1]:,.0f} ({slowest[0]})",
                      "–", "–", _yes(slowest[1] <= 50, enough=enough))  # fmt: skip


def _memory(found: Found) -> Iterator[Verdict]:
    if soak := found.get("soak"):
        memory = soak["memory"]
        most, slope = max(one["most"] for one in memory.values()), max(one["mib_a_minute"] for one in memory.values())
        yield Verdict("memory of a worker, MiB", "below 250, flat", f"{most:.0f}, {slope:+.2f} a minute", "–", "–",
                      _yes(most < 250 and slope < FLAT_MIB_A_MINUTE, enough=soak["minutes"] >= SOAK_MINUTES))  # fmt: skip


def _aggregator(found: Found) -> Iterator[Verdict]:
    turns = turns_of(found, "ours")
    if "alone" in found and turns:
        times = found["alone"]["aggregator"]["events_per_second"] / _rate(turns, "ours")
        yield Verdict("aggregator keeps up with ingest workers", "3", f"{times:.1f}", "–", "–", _yes(times >= 3))


def _exactness(found: Found) -> Iterator[Verdict]:
    runs = [found[name] for name in ("pipeline", "alone", "soak", "catch_up") if name in found] + list(
        found.get("freshness", {}).values()
    )
    if runs:
        yield Verdict(
            "`reconcile` holds",
            "after every run",
            f"{runs[0]['checks']} checks after {len(runs)} runs",
            "–",
            "–",
            "yes",
        )


_LINES: tuple[Callable[[Found], Iterator[Verdict]], ...] = (
    _beside_copy, _beside_naive, _beside_peer, _pipeline, _freshness, _growth, _memory, _aggregator, _exactness,
)  # fmt: skip
