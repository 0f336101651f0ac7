"""What the benchmarks make of their figures, and that what they send is what they say."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.connect import backlog_of
from benchmarks.endurance import level_of
from benchmarks.load import OWNERS, number_of, owner_of
from benchmarks.report import write_report
from benchmarks.suite import merged, parts_of
from benchmarks.traffic import traffic
from benchmarks.verdict import NOT_YET, verdicts

MACHINE = {
    "commit": "abc", "changed": False, "at": "2026-11-28T10:00:00+00:00", "processor": "P", "cores": 2, "memory_gib": 8.0, "python": "3.11",
    "load_before": [0.1, 0.1, 0.1], "command": "python -m benchmarks.suite", "record_bytes": 579,
}  # fmt: skip
USED = {"worker_us": 10.0, "postgres_us": 9.0, "kafka_us": 2.0, "wal_bytes": 600.0, "memory_mib": 120, "log_bytes": 300, "log_indexes_bytes": 140,
        "identities_bytes": 60, "identities_index_bytes": 40}  # fmt: skip
P = {"p50": 0.5, "p99": 1.5, "max": 2.0}


def turn(rate: int, **more: Any) -> dict[str, Any]:
    return {"events_per_second": rate, **USED, **more}


def figures() -> dict[str, Any]:
    """Figures of every part, all of which reach what is asked."""
    memory = {"least": 100.0, "median": 110.0, "most": 120.0, "mib_a_minute": 0.01}
    grown = {"aggregator_events_per_second": 500_000, "aggregator_us": 1.0, "queries_ms": {"today by hour": 9.0}}
    return {
        "copy": {"raw COPY": turn(200_000), "ours": turn(140_000), "Kafka Connect": turn(60_000, memory_mib=1_200),
                 "naive worker": turn(10_000), "row inserts": turn(3_000)},
        "scale": {"1": turn(140_000), "2": turn(180_000)},
        "pipeline": {**turn(50_000), "debits": 900, "checks": 61},
        "alone": {"aggregator": turn(500_000), "billing": turn(400_000), "checks": 61},
        "freshness": {"20000": {"row": P, "summary": P, "suspension": P, "checks": 61}},
        "soak": {**turn(45_000), "rate": 45_000, "minutes": 10.0, "sent": 27_000_000, "settled_seconds": 1.0, "debits": 900, "checks": 61,
                 "behind": {"row": {"median": 0.1, "most": 1.0}}, "memory": {"ingest": memory}},
        "catch_up": {"minutes": 10.0, "rate": 20_000, "missed": 12_000_000, "seconds": 400.0, "caught_up": True, "events_per_second": 50_000,
                     "checks": 61},
        "growth": {"0": {**turn(140_000), **grown}, "100000000": {**turn(130_000), **grown}},
    }  # fmt: skip


def document(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"machine": MACHINE, "seconds": 60, "events": 200_000, "figures": part} for name, part in found.items()
    }


def test_what_reaches_all_that_is_asked_says_so() -> None:
    assert [line.what for line in verdicts(figures()) if line.reached != "yes"] == []


@pytest.mark.parametrize(
    ("part", "worse"),
    [
        ("copy", {"ours": turn(120_000)}),
        ("copy", {"naive worker": turn(15_000)}),
        ("copy", {"row inserts": turn(5_000)}),
        ("copy", {"Kafka Connect": turn(100_000, memory_mib=1_200)}),
        ("copy", {"Kafka Connect": turn(60_000, memory_mib=500)}),
        ("soak", {"events_per_second": 39_000, "settled_seconds": 60.0}),
        ("soak", {"events_per_second": 39_000, "behind": {"row": {"median": 3.0, "most": 30.0}}}),
        ("soak", {"rate": 39_000, "events_per_second": 38_900}),
        ("soak", {"memory": {"billing": {"most": 120.0, "mib_a_minute": 3.0}}}),
        ("soak", {"memory": {"billing": {"most": 260.0, "mib_a_minute": 0.0}}}),
        ("freshness", {"20000": {"row": P, "summary": P, "suspension": {**P, "p99": 3.1}, "checks": 61}}),
        ("growth", {"100000000": {**turn(120_000), "queries_ms": {"today by hour": 9.0}}}),
        ("growth", {"100000000": {**turn(140_000), "queries_ms": {"today by hour": 51.0}}}),
        ("alone", {"aggregator": turn(300_000)}),
    ],
)
def test_what_misses_a_figure_says_so(part: str, worse: dict[str, Any]) -> None:
    found = figures()
    found[part] |= worse
    assert [line.reached for line in verdicts(found) if line.reached != "yes"] == ["no"]


def test_smaller_sizes_than_are_asked_for_reach_nothing() -> None:
    found = figures()
    found["soak"]["minutes"] = 1.0
    found["growth"] = {"0": found["growth"]["0"], "1000000": found["growth"]["100000000"]}
    assert [line.reached for line in verdicts(found)].count(NOT_YET) == 4


def test_the_report_shows_every_part_with_its_own_run(tmp_path: Path) -> None:
    text = write_report(document(figures()), tmp_path)
    assert text.count("commit abc, `python -m benchmarks.suite`") == len(figures())
    assert (tmp_path / "performance.md").read_text().count("\n## ") == len(figures()) + 1
    assert "Kafka Connect" in (tmp_path / "performance.svg").read_text()


def test_a_busy_machine_is_told_in_the_report() -> None:
    found = document({"alone": figures()["alone"]})
    found["alone"]["machine"] = {**MACHINE, "load_before": [9.0, 9.0, 9.0]}
    assert "The machine was busy" in write_report(found, None)


def test_parts_that_were_not_measured_come_from_the_latest_run_that_has_them(tmp_path: Path) -> None:
    def part(at: str) -> dict[str, Any]:
        return {"machine": {**MACHINE, "at": at}, "figures": at}

    (tmp_path / "old").write_text(json.dumps({"alone": part("2026-01"), "copy": part("2026-01")}))
    (tmp_path / "new").write_text(json.dumps({"alone": part("2026-02")}))
    found = merged({"copy": part("2026-03")}, [tmp_path / "new", tmp_path / "old"])
    assert {name: one["figures"] for name, one in found.items()} == {"copy": "2026-03", "alone": "2026-02"}


def test_a_part_that_there_is_not_is_named() -> None:
    assert parts_of("catch-up, copy") == ["copy", "catch_up"]
    assert parts_of("") == []
    with pytest.raises(argparse.ArgumentTypeError, match="there is no part speed: choose of copy,"):
        parts_of("speed")


def test_the_peer_is_sent_the_same_events_and_duplicates() -> None:
    sent = traffic(2_000, ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"])
    backlog = backlog_of(sent)
    assert len(backlog) == len(sent.records) > len(sent.rows)
    assert list(dict.fromkeys(row.id for _, _, row in backlog)) == [row.id for row in sent.rows]
    assert all(json.loads(value)["request_id"] == row.request_id for _, value, row in backlog)


def test_the_event_that_reaches_a_quota_is_its_owners() -> None:
    for which in (0, 1, 499):
        mine = [number for number in range(5 * OWNERS) if owner_of(number, OWNERS) == which]
        assert mine == [number_of(which, turn) for turn in range(5)]


def test_memory_that_grows_is_not_taken_for_level() -> None:
    warm_up = [(minute / 10, 80.0 + minute) for minute in range(20)]
    level = [(2 + minute / 10, 100.0) for minute in range(60)]
    leak = [(at, mib + 5 * at) for at, mib in level]
    assert level_of(warm_up + level)["mib_a_minute"] == 0
    assert level_of(warm_up + leak)["mib_a_minute"] == pytest.approx(5, abs=0.5)
