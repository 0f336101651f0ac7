"""The report of a run as Markdown, with a row for every class of fault."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from services.cli.chaos import faults
from services.cli.chaos.faults import WEIGHTS
from services.cli.chaos.result import RECOVERY_LIMITS, Result

NOT_INJECTED = (
    (
        "loss of the group's coordinator on the broker's side",
        "there is one broker: it takes its coordinator with it (row “broker killed”); “group's coordinator lost” is what a client makes of it",
    ),
    (
        "a network that is cut",
        "needs the rights of a machine: connections lost without a goodbye, and servers that do not answer, stand for it",
    ),
    (
        "failover to a database that lacks the last commits",
        "there is one database server; the simulation (`tests/simulation`) does it, for ingest",
    ),
    (
        "header names that are not UTF-8",
        "the client library here cannot send them: `tests/pipeline/test_ingest_worker.py` does, byte by byte",
    ),
)


def markdown(result: Result) -> str:
    """Return the report as it is kept in docs/."""
    total = result.faults.total()
    verdict = "passed" if result.passed else "FAILED"
    parts = [
        f"# {total:,} faults, {result.events:,} events: {verdict}",
        "",
        f"`{result.command}` at commit `{result.commit}`, seed {result.seed}, on {result.machine}; "
        f"{result.seconds:,.0f} s, {result.striking_seconds:,.0f} of them under faults."
        + (" **Interrupted.**" if result.interrupted else ""),
        "",
        "| figure | |",
        "|---|---:|",
        f"| records published | {result.published:,} |",
        f"| valid, distinct events | {result.events:,} |",
        f"| lost | {result.lost} |",
        f"| doubled | {result.doubled} |",
        f"| double-billed | {result.double_billed} |",
        f"| not billed | {result.unbilled} |",
        f"| deleted by the broker before they were read: announced, and accounted for as gaps | {result.announced_losses} |",
        f"| invoices issued | {result.invoices:,} |",
        f"| checks that hold | {result.checks - len(result.failed_checks)} of {result.checks} |",
        f"| faults of processes and servers | {total:,} |",
        f"| harmful records | {sum(result.record_faults.values()):,} |",
        "",
        *[f"- DIFFERS: {check}" for check in result.failed_checks],
        *_fault_rows(result),
        *_record_rows(result),
        *_memory_rows(result),
        *_point_rows(result),
    ]
    return "\n".join(parts)


def _fault_rows(result: Result) -> list[str]:
    rows = []
    for kind in WEIGHTS:
        count, limit = result.faults[kind], RECOVERY_LIMITS.get(kind)
        took = result.recovery.get(kind)
        late = limit is not None and took is not None and max(took) > limit
        verdict = ("late" if late else "holds") if count else "did not come about"
        within = f"≤ {limit:.0f}" if limit else ""
        rows.append(f"| {kind}{_remark(kind, result)} | {count:,} | {_seconds(took)} | {within} | {verdict} |")
    return [
        "",
        "## Faults of processes and servers",
        "",
        "Recovery was measured where a fault struck alone: from the end of its cause until all workers were ready, every "
        "service had moved, and lag was falling. *Holds*: after it, as at the end, nothing was lost, doubled or billed twice.",
        "",
        "| fault | injected | recovered in seconds: median (most; timed) | limit | verdict |",
        "|---|---:|---:|---:|---|",
        *rows,
        *(f"| {kind} | – | | | {why} |" for kind, why in NOT_INJECTED),
        "",
        f"Planned {result.planned:,}; {result.missed.total():,} were to strike at a point that their worker did not pass in time "
        f"(of them {result.missed[faults.KILL_AT_POINT]:,} kills, counted as “{faults.KILL}”; the others are not counted).",
        *[f"\nAfter “{kind}” readiness told in {_seconds(took)} s." for kind, took in sorted(result.told.items())],
    ]


def _remark(kind: str, result: Result) -> str:
    if kind == faults.DISK_FULL:
        real, said = (
            "a file system of its own without a free byte",
            "the server's answer, raised by a trigger: no rights to mount",
        )
        how = real if result.disk_is_real else said
        return f" ({how})"
    return ""


def _record_rows(result: Result) -> list[str]:
    return [
        "",
        "## Harmful records",
        "",
        "Part of the traffic, not counted among the faults above. Each was counted, held or quarantined for the reason that the model named.",
        "",
        "| record | sent |",
        "|---|---:|",
        *(f"| {kind} | {count:,} |" for kind, count in sorted(result.record_faults.items())),
    ]


def _memory_rows(result: Result) -> list[str]:
    services = sorted(result.memory)
    return [
        "",
        "## Memory",
        "",
        "The largest worker of each service in MiB (peak resident memory), over tenths of the run.",
        "",
        "| | " + " | ".join(str(part + 1) for part in range(len(result.memory_over_time))) + " | most |",
        "|---|" + "---:|" * (len(result.memory_over_time) + 1),
        *(
            f"| {service} | "
            + " | ".join(f"{part.get(service, 0):.0f}" for part in result.memory_over_time)
            + f" | {result.memory[service]:.0f} |"
            for service in services
        ),
    ]


def _point_rows(result: Result) -> list[str]:
    return [
        "",
        "## Commit points",
        "",
        "How often a process was struck at each.",
        "",
        "| point | times |",
        "|---|---:|",
        *(f"| {point} | {count:,} |" for point, count in sorted(result.points.items())),
        "",
    ]


def _seconds(took: Sequence[float] | None) -> str:
    return f"{median(took):.1f} ({max(took):.1f}; {len(took)})" if took else "–"
