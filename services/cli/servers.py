"""Settings of a command that works beside the workers: the servers are those that the environment names, else the running local stack."""

from __future__ import annotations

import os

from deploy.local import connect
from services.ingest.settings import Settings
from shared.errors import ConfigurationError
from shared.settings import KafkaSettings, load, variable_name


def kafka_settings() -> KafkaSettings:
    """Return Kafka's settings as a worker would read them. Raises `ConfigurationError` that says how to get a Kafka."""
    os.environ["KAFKA_BOOTSTRAP_SERVERS"] = connect.kafka_bootstrap_servers()
    return load(KafkaSettings)


def ingest_settings() -> Settings:
    """Return the settings of ingest, to know what it will accept. Raises `ConfigurationError` as `kafka_settings` does."""
    os.environ.update(connect.environment())
    return load(Settings)


def ingest_number(field: str) -> int:
    """Return what the environment says for a number among ingest's settings, else its default. Raises `ConfigurationError`."""
    name = variable_name(Settings, field)
    text = os.environ.get(name, str(Settings.model_fields[field].default))
    if not text.isdigit():
        raise ConfigurationError(f"{name} is {text!r}: a number is expected")
    return int(text)
