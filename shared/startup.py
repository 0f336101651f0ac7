"""What a worker checks before it begins, so that a person reads one line and not a stack trace."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from shared.errors import ConfigurationError
from shared.postgres import Pool
from shared.settings import KafkaSettings
from shared.topics import count_partitions, too_short


async def check_kafka(settings: KafkaSettings, topics: Sequence[str]) -> None:
    """Wait a little for a broker. Raises `ServiceUnavailable`, or `ConfigurationError` that names what is wrong with the topics.

    `topics` are plain names, as in shared/contracts.py.
    """
    partitions = await count_partitions(settings)
    prefix = settings.kafka_topic_prefix
    if missing := [prefix + topic for topic in topics if prefix + topic not in partitions]:
        raise ConfigurationError(f"Kafka has no topic {', '.join(missing)}: make them with 'tallystick topics' first")
    for short in too_short({topic: partitions[prefix + topic] for topic in topics}):
        raise ConfigurationError(
            f"{prefix}{short.topic} has {short.partitions} partitions, {prefix}{short.source} has {short.wanted}: what is read from a partition "
            "of the one is announced on the same partition of the other. Let it grow with 'tallystick topics --grow'"
        )


async def check_schema(pool: Pool) -> None:
    """Raise `ConfigurationError` for a database that was never migrated."""
    if await pool.fetchval("SELECT to_regclass('usage_batches')") is None:
        raise ConfigurationError("the database has no tables of Tallystick: make them with 'tallystick migrate' first")


def check_port(
    host: str,
    port: int,
    *,
    what: str = "/metrics and the probes",
    settings: str = "TALLYSTICK_HTTP_PORT and TALLYSTICK_HTTP_HOST",
) -> None:
    """Raise `ConfigurationError` for an address that cannot be listened on; it names the `settings` that say where."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise ConfigurationError(f"{what} cannot listen on {host}:{port} ({reason}): set {settings}") from error
