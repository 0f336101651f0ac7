"""Where a command finds its servers: what the environment names, else the running local stack of this checkout."""

from __future__ import annotations

import os

from deploy.local.errors import LocalStackError
from deploy.local.external import VARIABLES, servers_named_in
from deploy.local.stack import status
from shared.errors import ConfigurationError


def database_url() -> str:
    """DATABASE_URL, else that of the running local stack. Raises `ConfigurationError` that says how to get one."""
    return _address("postgres")


def kafka_bootstrap_servers() -> str:
    """KAFKA_BOOTSTRAP_SERVERS, else that of the running local stack. Raises `ConfigurationError` that says how to get one."""
    return _address("kafka")


def environment() -> dict[str, str]:
    """Both addresses as environment variables, for a process that is started with them. Raises `ConfigurationError`."""
    return {VARIABLES["postgres"]: database_url(), VARIABLES["kafka"]: kafka_bootstrap_servers()}


def _address(name: str) -> str:
    for server in servers_named_in(os.environ):
        if server.name == name:
            return server.address
    running = status()
    if running is None:
        raise ConfigurationError(
            f"there is no {name.capitalize()} to use: run `tallystick local up`, or set {VARIABLES[name]}"
        )
    try:
        return running.database_url if name == "postgres" else running.kafka_bootstrap_servers
    except LocalStackError:
        raise ConfigurationError(
            f"the local stack in {running.directory} runs without {name.capitalize()}: run `tallystick local up` again, or set {VARIABLES[name]}"
        ) from None
