"""The settings of Kafka's security: what fits together, in the words of each client library, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigurationError
from shared.kafka_security import broker_security, client_security, librdkafka_security
from shared.settings import KafkaSettings

SCRAM: dict[str, Any] = {
    "kafka_security_protocol": "SASL_PLAINTEXT",
    "kafka_username": "ingest",
    "kafka_password": "secret",
}


def settings(**fields: Any) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers="localhost:9092", **fields)


def test_nothing_is_asked_for_by_default() -> None:
    assert broker_security(settings()) is None
    assert client_security(settings()) == {"security_protocol": "PLAINTEXT"}
    assert librdkafka_security(settings()) == {"security.protocol": "PLAINTEXT"}


def test_a_password_reaches_every_client_library_and_no_log() -> None:
    scram = settings(**SCRAM)
    assert client_security(scram)["sasl_plain_password"] == "secret"
    assert librdkafka_security(scram)["sasl.password"] == "secret"
    assert getattr(broker_security(scram), "password", None) == "secret"
    assert "secret" not in repr(scram)


def test_a_password_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\n")
    scram = settings(**{**SCRAM, "kafka_password": None, "kafka_password_file": str(file)})
    assert client_security(scram)["sasl_plain_password"] == "from file"


def test_tls_checks_the_broker_s_name() -> None:
    context = client_security(settings(kafka_security_protocol="SSL"))["ssl_context"]
    assert context.check_hostname


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kafka_username": "ingest"},
            "PROTOCOL is PLAINTEXT, which asks for no password: .* leave out TALLYSTICK_KAFKA_USERNAME",
        ),
        (
            {"kafka_ca_file": "ca.pem"},
            "PROTOCOL is PLAINTEXT, which does not encrypt: .* leave out TALLYSTICK_KAFKA_CA_FILE",
        ),
        ({**SCRAM, "kafka_ca_file": "ca.pem"}, "PROTOCOL is SASL_PLAINTEXT, which does not encrypt"),
        ({**SCRAM, "kafka_username": ""}, "set TALLYSTICK_KAFKA_USERNAME, and one of TALLYSTICK_KAFKA_PASSWORD and"),
        ({**SCRAM, "kafka_password": None}, "set TALLYSTICK_KAFKA_USERNAME, and one of TALLYSTICK_KAFKA_PASSWORD and"),
        (
            {**SCRAM, "kafka_password_file": "both"},
            "one of TALLYSTICK_KAFKA_PASSWORD and TALLYSTICK_KAFKA_PASSWORD_FILE",
        ),
        ({"kafka_security_protocol": "SSL", "kafka_key_file": "key.pem"}, "belong together"),
        (
            {"kafka_security_protocol": "SSL", "kafka_ca_file": "absent.pem"},
            "TALLYSTICK_KAFKA_CA_FILE: absent.pem cannot be used",
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_certificate_file": "absent.pem", "kafka_key_file": "absent.key"},
            "TALLYSTICK_KAFKA_CERTIFICATE_FILE: absent.pem, absent.key cannot be used",
        ),
        (
            {**SCRAM, "kafka_password": None, "kafka_password_file": "absent"},
            "TALLYSTICK_KAFKA_PASSWORD_FILE: absent cannot be used",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_named(fields: dict[str, Any], message: str) -> None:
    for security in (broker_security, client_security, librdkafka_security):
        with pytest.raises(ConfigurationError, match=message):
            security(settings(**fields))


def test_an_empty_password_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("\n")
    with pytest.raises(ConfigurationError, match="it is empty"):
        client_security(settings(**{**SCRAM, "kafka_password": None, "kafka_password_file": str(file)}))
