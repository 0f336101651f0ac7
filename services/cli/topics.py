"""`tallystick topics`: create the topics that are missing."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

PARTITIONS = 8


def topics(
    partitions: Annotated[
        int, typer.Option(min=1, max=1000, help="Partitions of usage.events: the most workers that can share the load.")
    ] = PARTITIONS,
    replication_factor: Annotated[int, typer.Option(min=1, max=9, help="Copies of each record; 3 in production.")] = 1,
) -> None:
    """Create the topics that are missing; existing ones are left as they are."""
    from services.cli.servers import kafka_settings  # noqa: PLC0415 (slow to import)
    from shared.kafka import create_topics, topic_plan  # noqa: PLC0415
    from shared.kafka_security import client_security  # noqa: PLC0415

    kafka = kafka_settings()
    created = asyncio.run(
        create_topics(
            kafka.kafka_bootstrap_servers,
            partitions=partitions,
            replication_factor=replication_factor,
            prefix=kafka.kafka_topic_prefix,
            security=client_security(kafka),
        )
    )
    for plain_name, count in topic_plan(partitions).items():
        name = kafka.kafka_topic_prefix + plain_name
        happened = f"created with {count} partition{'' if count == 1 else 's'}" if name in created else "exists"
        typer.echo(f"{name:24} {happened}")
