"""Servers that are already there: those that the environment names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from deploy.local.server import Server
from shared.errors import ConfigurationError, ServiceUnavailable
from shared.settings import KafkaSettings

VARIABLES = {"postgres": "DATABASE_URL", "kafka": "KAFKA_BOOTSTRAP_SERVERS"}
_CONNECT_SECONDS = 10


def servers_named_in(environ: Mapping[str, str]) -> list[Server]:
    """The servers whose variables are set, unchecked."""
    return [
        Server(name, environ[variable], f"{without_password(environ[variable])}, named by {variable}")
        for name, variable in VARIABLES.items()
        if environ.get(variable)
    ]


def without_password(address: str) -> str:
    """The address as it may be shown; what is not a URL comes back unchanged."""
    parts = urlsplit(address)
    return address.replace(f":{parts.password}@", ":…@") if parts.scheme and parts.password else address


async def check(servers: Iterable[Server]) -> None:
    """Raises `ServiceUnavailable` for the first server that does not answer."""
    for server in servers:
        await (_check_postgres(server) if server.name == "postgres" else _check_kafka(server))


async def _check_postgres(server: Server) -> None:
    import asyncpg  # noqa: PLC0415 (slow to import, and only needed for a database of someone else's)

    try:
        connection = await asyncpg.connect(server.address, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ServiceUnavailable(
            f"Postgres does not answer at {server.description} ({error or type(error).__name__}): start it, correct DATABASE_URL, "
            "or unset it to use the embedded one"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"DATABASE_URL is not a database URL ({error}): use postgresql://user:password@host:port/database"
        ) from error
    await connection.close()


async def _check_kafka(server: Server) -> None:
    from deploy.local.kafka import answers_metadata  # noqa: PLC0415 (slow to import)
    from shared.kafka_security import client_security  # noqa: PLC0415

    security = client_security(KafkaSettings(kafka_bootstrap_servers=server.address))
    async with asyncio.timeout(_CONNECT_SECONDS * 3):
        answers = await answers_metadata(server.address, security)
    if not answers:
        raise ServiceUnavailable(
            f"Kafka does not answer at {server.description}: start it, correct KAFKA_BOOTSTRAP_SERVERS, or unset it to use the embedded one"
        )
