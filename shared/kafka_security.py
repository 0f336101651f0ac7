"""How clients prove to Kafka who they are, and the other way round: one set of settings in the words of each client library."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.errors import ConfigurationError
from shared.settings import KafkaSettings, variable_name

_MECHANISMS: Final = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
_SASL_FIELDS: Final = ("kafka_username", "kafka_password", "kafka_password_file")
_TLS_FIELDS: Final = ("kafka_ca_file", "kafka_certificate_file", "kafka_key_file")


def broker_security(settings: KafkaSettings) -> BaseSecurity | None:
    """Return what FastStream's broker takes as `security`; None without any. Raises `ConfigurationError` that names the setting."""
    check(settings)
    context = _ssl_context(settings) if _uses_tls(settings) else None
    if not _uses_sasl(settings):
        return BaseSecurity(ssl_context=context, use_ssl=True) if context else None
    sasl = _MECHANISMS[settings.kafka_sasl_mechanism]
    return sasl(settings.kafka_username, _password(settings), ssl_context=context, use_ssl=context is not None)


def client_security(settings: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments of aiokafka's clients. Raises as `broker_security` does."""
    check(settings)
    options: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol}
    if _uses_tls(settings):
        options["ssl_context"] = _ssl_context(settings)
    if _uses_sasl(settings):
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": _password(settings),
        }
    return options


def librdkafka_security(settings: KafkaSettings) -> dict[str, str]:
    """Return the properties of confluent-kafka's clients. Raises as `broker_security` does."""
    check(settings)
    options: dict[str, str] = {"security.protocol": settings.kafka_security_protocol}
    if _uses_tls(settings):
        _ssl_context(settings)  # its errors name the setting
        files = {
            "ssl.ca.location": settings.kafka_ca_file,
            "ssl.certificate.location": settings.kafka_certificate_file,
            "ssl.key.location": settings.kafka_key_file,
        }
        options |= {name: file for name, file in files.items() if file}
    if _uses_sasl(settings):
        options |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_username,
            "sasl.password": _password(settings),
        }
    return options


def check(settings: KafkaSettings) -> None:
    """Raise `ConfigurationError` for settings that are missing, or that the protocol would silently leave unused."""
    protocol = f"{variable_name(KafkaSettings, 'kafka_security_protocol')} is {settings.kafka_security_protocol}"
    if not _uses_tls(settings) and (unused := _given(settings, _TLS_FIELDS)):
        raise ConfigurationError(
            f"{protocol}, which does not encrypt: set it to SSL or SASL_SSL, or leave out {unused}"
        )
    if not _uses_sasl(settings) and (unused := _given(settings, _SASL_FIELDS)):
        raise ConfigurationError(f"{protocol}, which asks for no password: set it to SASL_SSL, or leave out {unused}")
    if _uses_sasl(settings) and not (
        settings.kafka_username and bool(settings.kafka_password) != bool(settings.kafka_password_file)
    ):
        user, password, file = (variable_name(KafkaSettings, field) for field in _SASL_FIELDS)
        raise ConfigurationError(f"{protocol}: set {user}, and one of {password} and {file}")
    if bool(settings.kafka_certificate_file) != bool(settings.kafka_key_file):
        certificate, key = (variable_name(KafkaSettings, field) for field in _TLS_FIELDS[1:])
        raise ConfigurationError(f"{certificate} and {key} belong together: set both or neither")


def _uses_tls(settings: KafkaSettings) -> bool:
    return settings.kafka_security_protocol.endswith("SSL")


def _uses_sasl(settings: KafkaSettings) -> bool:
    return settings.kafka_security_protocol.startswith("SASL")


def _given(settings: KafkaSettings, fields: tuple[str, ...]) -> str:
    return ", ".join(variable_name(KafkaSettings, field) for field in fields if getattr(settings, field))


def _password(settings: KafkaSettings) -> str:
    """Return the password; a file may end with a line feed, as secrets that are mounted often do."""
    if settings.kafka_password:
        return settings.kafka_password.get_secret_value()
    try:
        password = Path(settings.kafka_password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("kafka_password_file", settings.kafka_password_file, error) from error
    if not password:
        raise _unreadable("kafka_password_file", settings.kafka_password_file, ValueError("it is empty"))
    return password


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return a context that checks the broker's certificate and host name, against our CA if one is named, else the system's."""
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise _unreadable("kafka_ca_file", settings.kafka_ca_file, error) from error
    if settings.kafka_certificate_file:
        try:
            context.load_cert_chain(settings.kafka_certificate_file, settings.kafka_key_file)
        except (OSError, ssl.SSLError) as error:
            files = f"{settings.kafka_certificate_file}, {settings.kafka_key_file}"
            raise _unreadable("kafka_certificate_file", files, error) from error
    return context


def _unreadable(field: str, file: str, error: Exception) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigurationError(f"{variable_name(KafkaSettings, field)}: {file} cannot be used ({reason})")
