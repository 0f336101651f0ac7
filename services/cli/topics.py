"""`tallystick topics`: create the topics that are missing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shared.settings import KafkaSettings

PARTITIONS = 8
EXIT_TOO_SHORT = 1


def topics(
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help=f"Partitions of usage.events: the most workers that can share the load. Topics that are made get {PARTITIONS} without it.",
        ),
    ] = None,
    replication_factor: Annotated[int, typer.Option(min=1, max=9, help="Copies of each record; 3 in production.")] = 1,
    grow: Annotated[
        bool,
        typer.Option(
            "--grow", help="Give usage.events as many as --partitions says, and usage.recorded what it lacks."
        ),
    ] = False,
) -> int:
    """Create the topics that are missing; existing ones are left as they are, but for --grow, which can only add.

    When usage.events has grown, a subscription's later events may go to another partition than its earlier ones.
    Exit code 1 if usage.recorded has fewer partitions than usage.events: ingest does not start then.
    """
    from services.cli.servers import kafka_settings  # noqa: PLC0415 (slow to import)
    from shared.kafka import create_topics, topic_plan  # noqa: PLC0415
    from shared.kafka_security import client_security  # noqa: PLC0415

    kafka = kafka_settings()
    created = asyncio.run(
        create_topics(
            kafka.kafka_bootstrap_servers,
            partitions=partitions or PARTITIONS,
            replication_factor=replication_factor,
            prefix=kafka.kafka_topic_prefix,
            security=client_security(kafka),
        )
    )
    for plain_name, count in topic_plan(partitions or PARTITIONS).items():
        name = kafka.kafka_topic_prefix + plain_name
        happened = f"created with {count} partition{'' if count == 1 else 's'}" if name in created else "exists"
        typer.echo(f"{name:24} {happened}")
    return asyncio.run(_grow(kafka, partitions or 0) if grow else _mind_followers(kafka))


async def _grow(kafka: KafkaSettings, partitions: int) -> int:
    """Give usage.events so many partitions, and first the topics that follow it; return the exit code."""
    from shared import topics  # noqa: PLC0415 (slow to import)

    for short in await topics.find_too_short(kafka, at_least=partitions):
        await topics.grow(kafka, short)
        typer.echo(f"{kafka.kafka_topic_prefix}{short.topic} grew from {short.partitions} to {short.wanted} partitions")
    return 0


async def _mind_followers(kafka: KafkaSettings) -> int:
    """Say which topics have too few partitions; return the exit code."""
    from shared import topics  # noqa: PLC0415 (slow to import)

    short = await topics.find_too_short(kafka)
    for topic, count, source, wanted in short:
        typer.echo(
            f"{kafka.kafka_topic_prefix}{topic} has {count} partitions, {source} has {wanted}: repeat with --grow, or ingest does not start",
            err=True,
        )
    return EXIT_TOO_SHORT if short else 0
