"""`tallystick doctor`: asks, judges, and tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from services.cli.doctor.facts import Database, Kafka
    from services.cli.doctor.finding import Finding

EXIT_FOUND = 1
LARGEST = 10


class From(StrEnum):
    """From which severity on the exit code is 1."""

    note = "note"
    warning = "warning"
    error = "error"


def doctor(
    *,
    fail_on: Annotated[From, typer.Option(help="From which severity on the exit code is 1.")] = From.warning,
    database_only: Annotated[bool, typer.Option("--database-only", help="Do not ask Kafka.")] = False,
    sizes: Annotated[bool, typer.Option("--sizes", help="Also list the largest tables.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say what is wrong, or will be soon, with the database, Kafka and their settings, and what to do about it.

    Reads only. Looks at connections, sizes, dead rows, partitions ahead, roles, open transactions, age of transaction ids, clocks, settings,
    topics, lag, and positions against retention. Exit code 0: nothing that --fail-on says; 1: something; 2: it could not look.
    """
    database, kafka, findings = asyncio.run(_examine(with_kafka=not database_only))
    if as_json:
        typer.echo(json.dumps(_document(database, kafka, findings), default=str))
    else:
        _show(database, findings, sizes=sizes)
    from services.cli.doctor.finding import ORDER  # noqa: PLC0415

    serious = ORDER[: ORDER.index(fail_on.value) + 1]
    return EXIT_FOUND if any(finding.severity in serious for finding in findings) else 0


async def _examine(*, with_kafka: bool) -> tuple[Database, Kafka | None, list[Finding]]:
    import asyncpg  # noqa: PLC0415 (slow to import)

    from deploy.local import connect as servers  # noqa: PLC0415
    from deploy.migrate import pending  # noqa: PLC0415
    from services.cli.doctor import brokers  # noqa: PLC0415
    from services.cli.doctor import database as reading  # noqa: PLC0415
    from services.cli.doctor.finding import ORDER  # noqa: PLC0415
    from services.cli.doctor.judging import judge_database  # noqa: PLC0415
    from services.cli.doctor.judging_kafka import judge_kafka  # noqa: PLC0415
    from services.cli.operator import schema_missing  # noqa: PLC0415
    from services.cli.servers import ingest_number, kafka_settings  # noqa: PLC0415
    from shared.kafka import topic_plan  # noqa: PLC0415
    from shared.postgres import connect  # noqa: PLC0415
    from shared.topics import too_short  # noqa: PLC0415

    url = servers.database_url()
    kafka_at = kafka_settings() if with_kafka else None
    cluster = kafka_at.kafka_cluster if kafka_at else "main"
    connection = await connect(url, application_name="tallystick-doctor")
    try:
        database = await reading.read(
            connection,
            cluster=cluster,
            months_ahead=ingest_number("ingest_partitions_ahead"),
            pending=await pending(url),
        )
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        raise schema_missing(error) from None
    finally:
        await connection.close()
    wanted = list(topic_plan(1))
    kafka = await brokers.read(kafka_at, wanted) if kafka_at else None
    findings = judge_database(database, now=datetime.now(UTC), pool_max=ingest_number("database_pool_max"))
    if kafka_at and kafka:
        short = too_short({name: len(topic.partitions) for name, topic in kafka.topics.items()})
        findings += judge_kafka(kafka, wanted, database.positions, short)
    return database, kafka, sorted(findings, key=lambda finding: ORDER.index(finding.severity))


def _show(database: Database, findings: Sequence[Finding], *, sizes: bool) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from services.cli.checks import console  # noqa: PLC0415

    out, colours = console(), {"error": "bold red", "warning": "yellow", "note": "dim"}
    out.print(
        f"PostgreSQL {database.version}, {database.name}: {database.bytes / 1e9:,.2f} GB, "
        f"{sum(database.connections.values())} connections of {database.settings.get('max_connections')}",
        highlight=False,
    )
    if sizes:
        table = Table(show_edge=False, pad_edge=False)
        for column in ("table", "MB", "MB of indexes", "rows", "dead rows"):
            table.add_column(column, justify="left" if column == "table" else "right")
        for each in database.tables[:LARGEST]:
            numbers = (
                f"{each.table_bytes / 1e6:,.1f}",
                f"{each.index_bytes / 1e6:,.1f}",
                f"{each.live:,}",
                f"{each.dead:,}",
            )
            table.add_row(each.name, *numbers)
        out.print(table)
    for finding in findings:
        colour = colours[finding.severity]
        out.print(
            f"[{colour}]{finding.severity}[/] {finding.check}: {escape(finding.what)}", highlight=False, soft_wrap=True
        )
        out.print(f"  → {escape(finding.do)}", highlight=False, soft_wrap=True)
    if not findings:
        out.print("[green]nothing is wrong[/]")


def _document(database: Database, kafka: Kafka | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return JSON-ready values: findings, and the facts behind them."""
    counts = {severity: sum(f.severity == severity for f in findings) for severity in ("error", "warning", "note")}
    facts: dict[str, Any] = {**asdict(database), "clock_ahead": database.clock_ahead.total_seconds()}
    facts["clock_uncertainty"] = database.clock_uncertainty.total_seconds()
    topics = {name: asdict(topic) for name, topic in kafka.topics.items()} if kafka else None
    return {**counts, "findings": [asdict(finding) for finding in findings], "database": facts, "topics": topics}
