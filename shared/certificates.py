"""When the certificates end to be valid that the settings name: read when a process starts, as the clients read them, and told as a metric."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import structlog
from cryptography import x509
from pydantic_settings import BaseSettings

from shared.metrics import CERTIFICATE_EXPIRES
from shared.settings import variable_name

log = structlog.get_logger("certificates")

_FIELDS: Final = ("kafka_ca_file", "kafka_certificate_file", "oidc_ca_file")
_IN_THE_ADDRESS: Final = ("sslrootcert", "sslcert")
"""What a postgresql:// address may name."""


def report(settings: BaseSettings) -> None:
    """Set the metric for each file of certificates that `settings` name. One that cannot be read is logged: its client says more."""
    for setting, file in _files(settings):
        try:
            expiry = first_expiry(Path(file).read_bytes())
        except (OSError, ValueError) as error:
            log.warning("certificate_unreadable", setting=setting, error=repr(error))
        else:
            CERTIFICATE_EXPIRES.labels(setting).set(expiry.timestamp())


def first_expiry(pem: bytes) -> datetime:
    """Return when the first of the certificates in a PEM file ends to be valid. Raises `ValueError` if there is none."""
    return min(certificate.not_valid_after_utc for certificate in x509.load_pem_x509_certificates(pem))


def _files(settings: BaseSettings) -> Iterator[tuple[str, str]]:
    fields = type(settings).model_fields
    for field in _FIELDS:
        if field in fields and (file := getattr(settings, field)):
            yield variable_name(type(settings), field), file
    asked = parse_qs(urlsplit(getattr(settings, "database_url", "")).query)
    for name in _IN_THE_ADDRESS:
        for file in asked.get(name, ()):
            yield f"DATABASE_URL {name}", file
