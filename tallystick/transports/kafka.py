"""Records to Kafka, keyed by subscription, with acks=all and idempotence. Needs confluent-kafka."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tallystick.errors import ProducerError
from tallystick.transports import Rejection, Undelivered, from_record

if TYPE_CHECKING:
    from confluent_kafka import Producer

TOPIC: Final = "usage.events"
_HEADERS: Final[list[tuple[str, str | bytes | None]]] = [("content-type", b"application/cloudevents+json")]
_CERTAIN: Final[dict[str, Any]] = {"acks": "all", "enable.idempotence": True}
_DEFAULTS: Final[dict[str, Any]] = {"linger.ms": 5, "compression.type": "lz4"}
_NEVER_ACCEPTED: Final = ("MSG_SIZE_TOO_LARGE", "INVALID_RECORD")
_ENVIRONMENT: Final = {
    "TALLYSTICK_KAFKA_SECURITY_PROTOCOL": "security.protocol",
    "TALLYSTICK_KAFKA_SASL_MECHANISM": "sasl.mechanism",
    "TALLYSTICK_KAFKA_USERNAME": "sasl.username",
    "TALLYSTICK_KAFKA_PASSWORD": "sasl.password",
    "TALLYSTICK_KAFKA_CA_FILE": "ssl.ca.location",
    "TALLYSTICK_KAFKA_CERTIFICATE_FILE": "ssl.certificate.location",
    "TALLYSTICK_KAFKA_KEY_FILE": "ssl.key.location",
}
"""Settings of the workers, and what librdkafka calls them."""


class KafkaTransport:
    """Delivers to the topic of usage events. `config` are librdkafka's properties, such as those for TLS and logins."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic: str = TOPIC,
        config: Mapping[str, Any] | None = None,
        timeout_seconds: float = 20.0,
    ) -> None:
        self._topic = topic
        self._timeout = timeout_seconds
        self._config = {
            **_DEFAULTS,
            **(config or {}),
            "bootstrap.servers": bootstrap_servers,
            "message.timeout.ms": int(timeout_seconds * 1000),
            **_CERTAIN,
        }
        self._producer: Producer | None = None
        self._make()  # what is wrong with the configuration is told at once

    def send(self, records: Sequence[bytes]) -> Sequence[Rejection]:
        """Return when the brokers have acknowledged, but for records that they never will. Raises `Undelivered`."""
        producer = self._producer or self._make()
        failures: list[tuple[bytes, Any]] = []
        for record in records:
            self._produce(producer, record, failures)
        left = producer.flush(self._timeout + 5)
        rejected = [
            Rejection(record, "refused", str(error)) for record, error in failures if error.name() in _NEVER_ACCEPTED
        ]
        others = [error for _, error in failures if error.name() not in _NEVER_ACCEPTED]
        if left or others:
            if any(error.fatal() for error in others):
                self._producer = None  # it sends no more; the next one has an identity of its own
            raise Undelivered(
                f"{left + len(others)} of {len(records)} records are not acknowledged: {others[0] if others else 'no answer'}"
            )
        return rejected

    def close(self) -> None:
        """Let go of the connections. Nothing is left in the producer, as `send` waits for it."""
        self._producer = None

    def _produce(self, producer: Producer, record: bytes, failures: list[tuple[bytes, Any]]) -> None:
        key, body = from_record(record)

        def reported(error: Any, _: Any) -> None:
            if error is not None:
                failures.append((record, error))

        while True:
            try:
                producer.produce(self._topic, key=key, value=body, headers=_HEADERS, on_delivery=reported)
                return
            except BufferError:
                producer.poll(0.1)  # until there is room
            except Exception as error:  # a KafkaException, whose class we do not import: it holds a KafkaError
                failures.append(
                    (record, error.args[0] if error.args and hasattr(error.args[0], "fatal") else _Unknown(error))
                )
                return

    def _make(self) -> Producer:
        try:
            from confluent_kafka import Producer  # noqa: PLC0415 – not everybody has it
        except ImportError as error:
            raise ProducerError(
                "sending to Kafka needs confluent-kafka: pip install confluent-kafka; or send by HTTP"
            ) from error
        try:
            self._producer = Producer(self._config)
        except Exception as error:
            raise ProducerError(f"the Kafka client's configuration is refused: {error}") from error
        return self._producer


class _Unknown:
    """An error that is not the broker's, in the form of one."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def name(self) -> str:
        return type(self._error).__name__

    def fatal(self) -> bool:
        return False

    def __str__(self) -> str:
        return str(self._error)


def config_from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return librdkafka's properties for TLS and logins from the variables that the workers read, too. Raises `ProducerError`."""
    config = {name: value for variable, name in _ENVIRONMENT.items() if (value := environment.get(variable))}
    if file := environment.get("TALLYSTICK_KAFKA_PASSWORD_FILE"):
        config["sasl.password"] = secret(file)
    if "SASL" in config.get("security.protocol", ""):
        config.setdefault("sasl.mechanism", "SCRAM-SHA-512")
    return config


def secret(file: str) -> str:
    """Return the content of a file with a secret, without the line feed at its end. Raises `ProducerError`."""
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ProducerError(
            f"{file} cannot be read ({getattr(error, 'strerror', None) or error}); it should hold a password or key"
        ) from error
