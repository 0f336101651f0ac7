"""When certificates that settings name end to be valid: told as a metric, and what cannot be read is no reason to stop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import REGISTRY

from shared import certificates
from shared.metrics import CERTIFICATE_EXPIRES
from shared.worker import PipelineSettings

START = datetime(2026, 1, 1, tzinfo=UTC)


def pem(*, days: int) -> bytes:
    """A certificate that is valid for so many days from START."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    valid = builder.serial_number(1).not_valid_before(START).not_valid_after(START + timedelta(days=days))
    certificate = valid.sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def settings(tmp_path: Path, ca: bytes, *, database: str = "postgresql://h/d") -> PipelineSettings:
    (tmp_path / "ca.pem").write_bytes(ca)
    return PipelineSettings(
        kafka_bootstrap_servers="h:1", database_url=database, kafka_ca_file=str(tmp_path / "ca.pem")
    )


def told(setting: str) -> float | None:
    return REGISTRY.get_sample_value("tallystick_certificate_expires_timestamp_seconds", {"setting": setting})


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    CERTIFICATE_EXPIRES.clear()


def test_of_several_certificates_in_a_file_the_first_to_end_counts(tmp_path: Path) -> None:
    certificates.report(settings(tmp_path, pem(days=300) + pem(days=20) + pem(days=90)))
    assert told("TALLYSTICK_KAFKA_CA_FILE") == (START + timedelta(days=20)).timestamp()


def test_the_address_of_the_database_names_certificates_too(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(pem(days=5))
    address = f"postgresql://h/d?sslmode=verify-full&sslrootcert={tmp_path}/root.pem"
    certificates.report(settings(tmp_path, pem(days=9), database=address))
    assert told("DATABASE_URL sslrootcert") == (START + timedelta(days=5)).timestamp()
    assert told("DATABASE_URL sslcert") is None


@pytest.mark.parametrize("content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path, content: bytes) -> None:
    certificates.report(settings(tmp_path, content))
    assert told("TALLYSTICK_KAFKA_CA_FILE") is None


def test_without_certificates_nothing_is_told() -> None:
    certificates.report(PipelineSettings(kafka_bootstrap_servers="h:1", database_url="postgresql://h/d"))
    assert told("TALLYSTICK_KAFKA_CA_FILE") is None
