"""`tallystick jobs`: what billing does by the clock – how it stands, and runs by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import continuous, operator

if TYPE_CHECKING:
    from services.billing.settings import Settings
    from shared.jobs import Job, JobState, Outcome
    from shared.postgres import Pool

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Scheduled jobs: how they stand, and runs by hand.")

EXIT_FAILED = 1


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> int:
    """Show every job: its last run and what that came to, when it is due next, and whether it is overdue.

    Exit code 1 if a job is overdue. Times are UTC. Jobs are run by billing's workers; one that is switched off by a setting is not listed.
    What other services do continuously comes after them: of that, it is shown how much is overdue.
    """
    found = operator.with_billing(_states)
    always = operator.with_database(lambda connection: continuous.standing(connection, datetime.now(UTC)))
    if as_json:
        jobs = [asdict(state) for state in found]
        jobs += [
            {
                "name": one.name,
                "description": one.description,
                "service": one.service,
                "waiting": late,
                "overdue": late > 0,
            }
            for one, late in always
        ]
        typer.echo(json.dumps(jobs, default=_plain, indent=2))
    else:
        _show(found, always)
    return EXIT_FAILED if any(state.overdue for state in found) or any(late for _, late in always) else 0


@app.command()
def run(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The job, as `list` names it; hyphens may stand for its spaces.")
    ],
    *,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The scheduled time to run it for, such as 2026-11-02T00:00Z; else the earliest that is due.",
        ),
    ] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; else who is logged in.")] = None,
) -> int:
    """Run a job now, for one scheduled time. A time that was run already, or lies ahead, is refused.

    It is recorded like the timer's runs, which then leave that time out. Exit code 1 if the run failed: the timer tries it again.
    What a service does continuously is done at once, and not recorded.
    """
    if (always := continuous.named(name)) is not None:
        return _run_at_once(always, at)
    scheduled_for, who = operator.parse_instant(at) if at else None, operator.actor(by)

    async def make(settings: Settings, pool: Pool) -> Outcome:
        from shared.clock import SystemClock  # noqa: PLC0415
        from shared.jobs import run_by_hand  # noqa: PLC0415

        job = _named(name, _jobs(settings, pool))
        return await run_by_hand(pool, SystemClock(), job, by=who, at=scheduled_for)

    outcome = operator.with_billing(make)
    typer.echo(f"{outcome.job} for {outcome.scheduled_for.isoformat()}: {'done' if outcome.finished else 'failed'}")
    for key, value in outcome.result.items():
        typer.echo(f"  {key}: {operator.harmless(str(value))}")
    return 0 if outcome.finished else EXIT_FAILED


def _run_at_once(work: continuous.Continuous, at: str | None) -> int:
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if at is not None:
        raise ConfigurationError(
            f"'{work.name}' is done continuously by {work.service}, and for no time: leave --at out"
        )
    result = work.run()
    typer.echo(f"{work.name}: done")
    for key, value in result.items():
        typer.echo(f"  {key}: {operator.harmless(str(value))}")
    return 0


async def _states(settings: Settings, pool: Pool) -> Sequence[JobState]:
    from shared.jobs import states  # noqa: PLC0415

    async with pool.acquire() as connection:
        return await states(connection, _jobs(settings, pool), datetime.now(UTC))


def _jobs(settings: Settings, pool: Pool) -> Sequence[Job]:
    from services.billing.jobs import all_jobs  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    return all_jobs(settings, pool, SystemClock())


def _named(name: str, jobs: Sequence[Job]) -> Job:
    from shared.errors import ConfigurationError  # noqa: PLC0415

    for job in jobs:
        if job.name.replace(" ", "-") == name.strip().replace(" ", "-"):
            return job
    names = [*(job.name for job in jobs), *(one.name for one in continuous.CONTINUOUS)]
    raise ConfigurationError(f"there is no job '{name}': there are {', '.join(map(repr, names))}")


def _show(states: Sequence[JobState], always: Sequence[tuple[continuous.Continuous, int]]) -> None:
    from rich.table import Table  # noqa: PLC0415 (slow to import)

    from services.cli.checks import console  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column in ("job", "last run for", "state", "result", "next due"):
        table.add_column(column, overflow="fold", no_wrap=column == "job")
    for state in states:
        last = state.last
        result = (
            ", ".join(f"{key} {value}" for key, value in last.result.items() if value not in ([], None)) if last else ""
        )
        table.add_row(
            state.name,
            _time(last.scheduled_for if last else None),
            _standing(state),
            operator.harmless(result),
            _time(state.next_due),
        )
    for work, late in always:
        standing = f"{late:,} overdue" if late else "nothing overdue"
        table.add_row(work.name, "–", f"continuous, {work.service}", standing, "–")
    console().print(table)


def _standing(state: JobState) -> str:
    last = state.last
    if last is None:
        standing = "never run"
    elif last.finished_at is None:
        standing = f"failed ({operator.plural(last.attempts, 'attempt')})"
    else:
        standing = "done" if last.asked_by is None else f"done by {operator.harmless(last.asked_by)}"
    return f"{standing}, overdue" if state.overdue else standing


def _time(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else "–"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
