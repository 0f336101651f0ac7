"""Settings of a command that works beside the workers: the servers are those that the environment names, else the running local stack."""

from __future__ import annotations

import os

from deploy.local import connect
from services.ingest.settings import Settings
from shared.settings import KafkaSettings, load


def kafka_settings() -> KafkaSettings:
    """Return Kafka's settings as a worker would read them. Raises `ConfigurationError` that says how to get a Kafka."""
    os.environ["KAFKA_BOOTSTRAP_SERVERS"] = connect.kafka_bootstrap_servers()
    return load(KafkaSettings)


def ingest_settings() -> Settings:
    """Return the settings of ingest, to know what it will accept. Raises `ConfigurationError` as `kafka_settings` does."""
    os.environ.update(connect.environment())
    return load(Settings)
