"""A broker that asks everybody who they are: TLS with certificates made here, SCRAM, and rights by principal."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.local import ports
from deploy.local.stack import running_stack
from shared.contracts import (
    BILLING_EVENTS,
    SUBSCRIPTION_STATUS,
    USAGE_DEAD_LETTER,
    USAGE_EVENTS,
    USAGE_RECORDED,
)
from shared.settings import KafkaSettings

OPERATOR: Final = "operator"
READS: Final = {"ingest": USAGE_EVENTS, "aggregator": USAGE_RECORDED, "billing": USAGE_RECORDED}
"""Each service reads one topic, as the group tallystick-<service>."""
WRITES: Final = {
    "gateway": (USAGE_EVENTS,),
    "ingest": (USAGE_RECORDED, USAGE_DEAD_LETTER),
    "aggregator": (SUBSCRIPTION_STATUS, BILLING_EVENTS),
    "billing": (BILLING_EVENTS,),
}


@dataclass(frozen=True, slots=True)
class SecuredKafka:
    """A broker whose only way in for principals is SASL_SSL. The stack's own listener, without a password, stays the administrator's."""

    bootstrap: str
    ca_file: Path
    passwords: Mapping[str, str]

    def environ(self, principal: str) -> dict[str, str]:
        """Return the environment variables by which a process becomes `principal`."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "TALLYSTICK_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "TALLYSTICK_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "TALLYSTICK_KAFKA_USERNAME": principal,
            "TALLYSTICK_KAFKA_PASSWORD": self.passwords[principal],
            "TALLYSTICK_KAFKA_CA_FILE": str(self.ca_file),
        }

    def settings(self, principal: str, **changed: Any) -> KafkaSettings:
        """Return the settings of `principal`."""
        facts = {name.removeprefix("TALLYSTICK_").lower(): value for name, value in self.environ(principal).items()}
        return KafkaSettings(**{**facts, **changed})


@contextmanager
def secured_kafka(directory: Path) -> Iterator[SecuredKafka]:
    """Run a broker with a principal for each service, a gateway and an operator."""
    ca_file, server_file = make_certificates(directory)
    port = ports.choose()
    with running_stack(servers=("kafka",), durable=False, kafka_properties=_properties(port, server_file)) as running:
        passwords = {name: secrets.token_urlsafe(12) for name in (*WRITES, OPERATOR)}
        admin = AdminClient({"bootstrap.servers": running.stack.kafka_bootstrap_servers})
        _make_users(admin, passwords)
        _grant(admin)
        yield SecuredKafka(f"{ports.HOST}:{port}", ca_file, passwords)


def _properties(port: int, server_file: Path) -> dict[str, str]:
    jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return {
        "listeners": f"SECURE://{ports.HOST}:{port}",
        "advertised.listeners": f"SECURE://{ports.HOST}:{port}",
        "listener.security.protocol.map": "SECURE:SASL_SSL",
        "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.secure.scram-sha-512.sasl.jaas.config": jaas,
        "listener.name.secure.ssl.keystore.type": "PEM",
        "listener.name.secure.ssl.keystore.location": str(server_file),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{OPERATOR}",
        "allow.everyone.if.no.acl.found": "false",
    }


def _make_users(admin: Any, passwords: Mapping[str, str]) -> None:
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    upserts = [UserScramCredentialUpsertion(name, info, password.encode()) for name, password in passwords.items()]
    for future in admin.alter_user_scram_credentials(upserts).values():
        future.result(timeout=30)


def _grant(admin: Any) -> None:
    """Let each principal do what it has to; docs/how-to/secure-postgres-and-kafka.md says the same with Kafka's own tool."""
    writes = [
        (name, ResourceType.TOPIC, topic, AclOperation.WRITE) for name, topics in WRITES.items() for topic in topics
    ]
    reads = [(name, ResourceType.TOPIC, topic, AclOperation.READ) for name, topic in READS.items()]
    groups = [(name, ResourceType.GROUP, f"tallystick-{name}", AclOperation.READ) for name in READS]
    rights = [
        AclBinding(kind, thing, ResourcePatternType.LITERAL, f"User:{name}", "*", operation, AclPermissionType.ALLOW)
        for name, kind, thing, operation in writes + reads + groups
    ]
    for future in admin.create_acls(rights).values():
        future.result(timeout=30)


def make_certificates(directory: Path) -> tuple[Path, Path]:
    """Make an authority and a broker's certificate for 127.0.0.1; return the authority's file, and that of the broker's key and chain."""
    authority_key, broker_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tallystick test authority")])
    authority = (
        _certificate(name, name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_USAGE_OF_AN_AUTHORITY, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    broker = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")]), name, broker_key)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ports.HOST))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    ca_file, server_file = directory / "ca.pem", directory / "broker.pem"
    ca_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    key = broker_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server_file.write_bytes(key + broker.public_bytes(serialization.Encoding.PEM) + ca_file.read_bytes())
    return ca_file, server_file


_USAGE_OF_AN_AUTHORITY: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
