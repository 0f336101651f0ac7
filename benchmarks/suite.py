"""The hot path beside its limit and its peers, in one run: what `make bench` prints and docs/reports/performance.md shows.

    python -m benchmarks.suite [--quick | --long] [--only copy,peer,scale,pipeline,alone,freshness,soak,catch_up,growth] [--report]

`copy` lets raw COPY, our worker, the straightforward FastStream worker and the seeds' row insert take turns, round by round, so
that whatever else the machine does disturbs all of them: believe the ratios, not the rates. `peer` does so with raw COPY, our worker and
Kafka Connect; asked for together they are one. Every run of ours ends with a count of what was stored, every run of the whole pipeline with
`tallystick reconcile`: a fast wrong answer is no answer.

Each part's figures carry the machine, commit and time of their own. `--merge FILE` takes parts that this run does not measure from earlier
runs; `--only '' --merge FILE --report` only writes the report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import endurance, freshness, growth
from benchmarks.connect import running_connect
from benchmarks.hardware import compiled, machine
from benchmarks.measures import Bench
from benchmarks.report import write_report
from benchmarks.sizes import LONG, POSTGRES, QUICK, SMALL, Size
from benchmarks.traffic import migrated, subscriptions, traffic
from benchmarks.verdict import PEER
from deploy.local.stack import running_stack
from services.ingest.compiled import Compiled

PARTS = ("copy", "peer", "scale", "pipeline", "alone", "freshness", "soak", "catch_up", "growth")
WARM_RUNS = 2
Measure = Callable[[], Coroutine[Any, Any, dict[str, Any]]]


def say(line: str) -> None:
    """Tell a person who waits."""
    print(line, file=sys.stderr, flush=True)


def in_turn(bench: Bench, parts: Sequence[str]) -> dict[str, Any]:
    """Let the worker, its limit and its peers take turns; return the medians of each."""
    turns: dict[str, Measure] = {"raw COPY": lambda: bench.raw_copy("records")}
    if "copy" in parts:
        turns["raw COPY, packed"] = lambda: bench.raw_copy("packed")
    turns["ours"] = bench.ours
    if "copy" in parts and compiled():
        turns["ours, in Python"] = lambda: bench.ours(TALLYSTICK_INGEST_COMPILED=Compiled.OFF)
    runs: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        if "peer" in parts:
            connect = stack.enter_context(running_connect(bench.stack, say))
            turns[PEER] = lambda: connect.drain(bench.owners, bench.sent)
            for _ in range(WARM_RUNS):
                say(f"{PEER}, to warm its JVM: {asyncio.run(turns[PEER]())}")
        if "copy" in parts:
            turns |= {"naive worker": bench.naive, "row inserts": bench.seed}
        for number in range(1, bench.size.rounds + 1):
            for name, measure in turns.items():
                figures = asyncio.run(measure())
                say(f"round {number} of {bench.size.rounds}: {name}: {figures}")
                runs.setdefault(name, []).append(figures)
    return {name: medians(measured) for name, measured in runs.items()}


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return each figure's median, and the rates of all rounds."""
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return {**middle, "rounds": [run["events_per_second"] for run in runs]}


def scale(bench: Bench) -> dict[str, Any]:
    """Return the rate of one, two and four ingest workers."""
    rounds = min(3, bench.size.rounds)
    return {str(count): medians([asyncio.run(bench.ours(count)) for _ in range(rounds)]) for count in (1, 2, 4)}


def fresh(bench: Bench) -> dict[str, Any]:
    """Return freshness at each rate."""
    found = {}
    for rate in bench.size.rates:
        found[str(rate)] = asyncio.run(freshness.measure(bench.stack, bench.owners, rate, bench.size.seconds))
        say(f"freshness at {rate} events/s: {found[str(rate)]}")
    return found


def run(bench: Bench, parts: Sequence[str], where: dict[str, Any]) -> dict[str, Any]:
    """Measure the parts that are asked for; what each of them found, where and when, and how long it took."""
    size, stack, owners = bench.size, bench.stack, bench.owners
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "copy": lambda: in_turn(bench, parts),
        "peer": lambda: in_turn(bench, ("peer",)),
        "scale": lambda: scale(bench),
        "pipeline": lambda: asyncio.run(bench.pipeline()),
        "alone": lambda: asyncio.run(bench.alone()),
        "freshness": lambda: fresh(bench),
        "soak": lambda: asyncio.run(endurance.soak(stack, owners, size.soak_rate, size.soak_minutes)),
        "catch_up": lambda: asyncio.run(endurance.catch_up(stack, owners, size.outage_rate, size.outage_minutes)),
        "growth": lambda: asyncio.run(growth.measure(bench, size.grown, size.grown_rounds, say)),
    }
    found: dict[str, Any] = {}
    for name in parts:
        if name == "peer" and "copy" in parts:
            continue  # it takes turns there
        started, machine_now = time.monotonic(), {**where, **machine()}
        figures = measures[name]()
        seconds = round(time.monotonic() - started)
        say(f"{name}: {figures} ({seconds} s)")
        found[name] = {"machine": machine_now, "seconds": seconds, "events": size.events, "figures": figures}
    return found


def merged(found: dict[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Return what was found, with the parts of earlier files that are lacking in it: of each the one that was measured last."""
    for file in files:
        for name, part in json.loads(file.read_text(encoding="utf-8")).items():
            if name not in found or found[name]["machine"]["at"] < part["machine"]["at"]:
                found[name] = part
    return {name: found[name] for name in PARTS if name in found}


def chosen(options: argparse.Namespace) -> Size:
    """Return the sizes that were asked for."""
    size = QUICK if options.quick else LONG if options.long else SMALL
    given = {name: getattr(options, name) for name in ("soak_rate", "soak_minutes", "outage_rate", "outage_minutes")}
    asked = {name: value for name, value in given.items() if value is not None}
    if options.grown:
        asked["grown"] = tuple(sorted(int(rows) for rows in options.grown.split(",")))
    return replace(size, **asked)


def parts_of(text: str) -> list[str]:
    """Return the parts that are named, in their order. Raises `argparse.ArgumentTypeError` for one that is none."""
    named = {name.strip().replace("-", "_") for name in text.split(",") if name.strip()}
    if unknown := named - set(PARTS):
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    return [name for name in PARTS if name in named]


def main() -> None:
    """Run, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few minutes, to see that it works")
    size.add_argument("--long", action="store_true", help="an hour or more")
    parser.add_argument("--only", type=parts_of, default=list(PARTS), help="which parts, with commas")
    parser.add_argument("--grown", metavar="ROWS,…", help="sizes of the log at which `growth` looks, beside none")
    parser.add_argument("--soak-rate", type=int, help="events/s")
    parser.add_argument("--soak-minutes", type=float)
    parser.add_argument("--outage-rate", type=int, help="events/s")
    parser.add_argument("--outage-minutes", type=float)
    parser.add_argument("--json", type=Path, default=Path(".tallystick/bench.json"), help="where the figures go")
    parser.add_argument(
        "--merge", type=Path, nargs="+", default=[], help="figures of earlier runs, for parts that are not measured"
    )
    parser.add_argument("--report", action="store_true", help="also write docs/reports/performance.md and its plot")
    options = parser.parse_args()
    sizes, found = chosen(options), dict[str, Any]()
    if options.only:
        owners = subscriptions()
        sent = traffic(sizes.events, owners)
        where = {
            "command": " ".join(["python -m benchmarks.suite", *sys.argv[1:]]),
            "record_bytes": len(sent.records[0][1]),
        }
        with (
            running_stack(servers=("postgres", "kafka"), postgres_settings=POSTGRES, say=say) as running,
            migrated(running.stack.database_url),
        ):
            found = run(Bench(running.stack, sizes, owners, sent), options.only, where)
    found = merged(found, options.merge)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    say(f"figures: {options.json}")
    print(write_report(found, Path("docs/reports") if options.report else None))


if __name__ == "__main__":
    main()
