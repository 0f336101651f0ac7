"""Blocks of settings that every service composes its own from. One prefix, `TALLYSTICK_`, and two names that everybody knows."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import ConfigurationError

PREFIX = "TALLYSTICK_"


class KafkaSettings(BaseSettings):
    """Where Kafka is."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    kafka_bootstrap_servers: str = Field(
        validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "TALLYSTICK_KAFKA_BOOTSTRAP_SERVERS"),
        description="Brokers to start from, host:port, comma-separated.",
    )
    kafka_cluster: str = Field(
        "main", description="Name of the Kafka cluster in stored positions. Change it only together with the cluster."
    )
    kafka_startup_seconds: float = Field(
        20.0, ge=0, le=600, description="How long a worker that starts waits for a broker to answer."
    )
    kafka_topic_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="Put before every topic and group name, so that two pipelines can share a cluster.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to talk to the brokers: SSL encrypts, SASL logs in."
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="How to log in. PLAIN hands the password to the broker."
    )
    kafka_username: str = Field("", description="Who to log in as: each service as a principal of its own.")
    kafka_password: SecretStr | None = Field(None, description="The password of that user.")
    kafka_password_file: str = Field("", description="File with the password, in place of the variable.")
    kafka_ca_file: str = Field(
        "", description="Certificates (PEM) that the brokers' are checked against; the system's without it."
    )
    kafka_certificate_file: str = Field("", description="Our certificate (PEM), where brokers ask clients for one.")
    kafka_key_file: str = Field("", description="Its private key (PEM).")


class PostgresSettings(BaseSettings):
    """Where Postgres is."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    database_url: str = Field(
        validation_alias=AliasChoices("DATABASE_URL", "TALLYSTICK_DATABASE_URL"),
        description="postgresql:// address of the database.",
    )
    database_role: str = Field(
        "",
        pattern=r"^[^\x00-\x1f\"]{0,63}$",
        description="Role whose rights are used in place of the login's. Empty: tallystick_ingest, tallystick_aggregator or "
        "tallystick_billing, if the login may act as it; none: the login's own rights, for a login per service.",
    )
    database_pool_max: int = Field(8, ge=2, le=200, description="Most connections that one worker opens.")


class WorkerSettings(BaseSettings):
    """How one worker process runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    http_host: str = Field("127.0.0.1", description="Address that /metrics, /livez and /readyz listen on.")
    http_port: int = Field(0, ge=0, le=65535, description="Port for them; 0 takes the service's default.")
    instance: str = Field(
        "0",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Name of this worker within its service: its static group membership (a pod name).",
    )
    otlp_endpoint: str = Field(
        "",
        validation_alias=AliasChoices("TALLYSTICK_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        pattern=r"^(https?://.+)?$",
        description="Where traces of batches are sent (OTLP/HTTP, without /v1/traces); none without it. Needs the extra `tracing`. "
        "OTEL_EXPORTER_OTLP_ENDPOINT sets it as well.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    shutdown_seconds: float = Field(
        15.0, gt=0, description="Longest time that a stopping worker takes to finish its batch."
    )


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(settings: type[SettingsT], **known: Any) -> SettingsT:
    """Read settings from the environment, but for what is `known`. Raises `ConfigurationError` that names each variable that is missing or wrong."""
    try:
        return settings(**known)
    except ValidationError as error:
        problems = "; ".join(_problem(settings, problem) for problem in error.errors())
        raise ConfigurationError(f"settings are not usable – {problems}") from None


def _problem(settings: type[BaseSettings], problem: ErrorDetails) -> str:
    if not problem["loc"]:  # a rule between settings, which names them itself
        return problem["msg"].removeprefix("Value error, ")
    return f"{_variable(settings, str(problem['loc'][0]))}: {problem['msg'].lower()}"


def _variable(settings: type[BaseSettings], field: str) -> str:
    if field in settings.model_fields:
        return variable_name(settings, field)
    return field if field.isupper() or field in os.environ else field.upper()


def variable_name(settings: type[BaseSettings], field: str) -> str:
    """Return the environment variable that sets a field."""
    alias = settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"{PREFIX}{field.upper()}"
