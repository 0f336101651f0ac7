"""The servers as containers, for those who set TALLYSTICK_TEST_STACK=docker and have an engine that answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

POSTGRES_IMAGE = "postgres:18"


def engine_answers() -> bool:
    """Whether a Docker API is there to talk to."""
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 (only for those who chose it)

    try:
        return bool(docker.from_env().ping())
    except (docker.errors.DockerException, OSError):
        return False


@contextmanager
def container(name: str) -> Iterator[str]:
    """A container of `postgres` or `kafka`; yields its database URL or its bootstrap servers."""
    if name == "postgres":
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415

        with PostgresContainer(POSTGRES_IMAGE, driver=None).with_command(
            "postgres -c max_connections=200 -c fsync=off"
        ) as server:
            yield server.get_connection_url()
    else:
        from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415

        with KafkaContainer().with_kraft() as broker:
            yield broker.get_bootstrap_server()
