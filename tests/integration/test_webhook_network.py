"""No URL makes us talk to what only we can reach: names are judged by what they resolve to, redirects are not followed, TLS is checked."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.billing.notices.addresses import Address
from services.billing.notices.sending import GuardedNetwork, Resolve, Sender
from tests.webhook_receiver import receiving

SECONDS = timedelta(seconds=5)
PUBLIC, METADATA = "8.8.8.8", "169.254.169.254"


def resolving(*answers: Sequence[str]) -> tuple[Resolve, list[str]]:
    """A resolver that gives one answer after the other, and the names that it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[Address]:
        asked.append(host)
        return [ip_address(a) for a in answers[min(len(asked), len(answers)) - 1]]

    return resolve, asked


class _Wire(httpcore.AsyncNetworkBackend):
    """Notes where it is told to connect, and connects to nothing."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        raise httpcore.ConnectError("nobody is there")


def guarded(resolve: Resolve, *, allow_private: bool = False) -> tuple[GuardedNetwork, _Wire]:
    network, wire = GuardedNetwork(resolve, allow_private=allow_private), _Wire()
    network._network = wire  # type: ignore[assignment]
    return network, wire


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        [METADATA],
        ["10.1.2.3"],
        ["::1"],
        ["::ffff:192.168.0.1"],
        ["64:ff9b::a9fe:a9fe"],
        ["fd00::1"],
        ["224.0.0.1"],
        ["0.0.0.0"],  # noqa: S104
        [PUBLIC, "127.0.0.1"],
    ],
)
async def test_a_name_that_leads_to_an_address_of_ours_is_not_connected_to(answer: list[str]) -> None:
    resolve, _ = resolving(answer)
    sender = Sender(timeout=SECONDS, allow_private=False, resolve=resolve)
    attempted = await sender.post("http://innocent.example/", {}, b"{}")
    assert (attempted.outcome, attempted.response_status) == ("forbidden", None)
    assert "innocent.example leads to" in (attempted.detail or "")


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to() -> None:
    """DNS rebinding: the next answer is another. It is not asked for, or judged as well."""
    resolve, asked = resolving([PUBLIC], [METADATA])
    network, wire = guarded(resolve)
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("rebinding.example", 443)
    assert (asked, wire.connected) == (["rebinding.example"], [PUBLIC])
    with pytest.raises(Exception, match=f"rebinding.example leads to {METADATA}"):
        await network.connect_tcp("rebinding.example", 443)
    assert wire.connected == [PUBLIC]


async def test_each_address_of_a_name_is_tried() -> None:
    resolve, _ = resolving(["2606:4700:4700::1111", PUBLIC, PUBLIC])
    network, wire = guarded(resolve)
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("two.example", 443)
    assert wire.connected == ["2606:4700:4700::1111", PUBLIC]


@pytest.mark.parametrize("literal", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
async def test_spellings_of_an_address_that_only_a_resolver_knows_are_judged_by_what_it_says(literal: str) -> None:
    sender = Sender(timeout=SECONDS, allow_private=False)
    async with receiving() as receiver:
        attempted = await sender.post(f"http://{literal}:{receiver.port}/", {}, b"{}")
    assert attempted.outcome in {"forbidden", "unreachable"}
    assert receiver.received == []


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as inside, receiving(f"redirect {inside.url}") as outside:
        attempted = await Sender(timeout=SECONDS, allow_private=True).post(outside.url, {}, b"{}")
    assert (attempted.outcome, attempted.response_status) == ("redirected", 302)
    assert inside.received == []


async def test_an_answer_that_never_ends_holds_nobody_up() -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            await writer.drain()
            await closed.wait()
        finally:
            writer.close()

    closed = asyncio.Event()
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    attempted = await asyncio.wait_for(
        Sender(timeout=timedelta(seconds=60), allow_private=True).post(url, {}, b"{}"), 10
    )
    assert attempted.outcome == "delivered"
    closed.set()
    server.close()


async def test_a_resolver_that_fails_or_takes_too_long_is_a_failure() -> None:
    async def unknown(_host: str, _port: int) -> Sequence[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    async def silent(_host: str, _port: int) -> Sequence[Address]:
        await asyncio.Event().wait()
        return []

    sender = Sender(timeout=SECONDS, allow_private=False, resolve=unknown)
    attempted = await sender.post("https://nowhere.example/", {}, b"{}")
    assert (attempted.outcome, attempted.detail) == (
        "unreachable",
        "nowhere.example is not known: Name or service not known",
    )
    sender = Sender(timeout=timedelta(milliseconds=50), allow_private=False, resolve=silent)
    assert (await sender.post("https://nowhere.example/", {}, b"{}")).outcome == "timeout"


@pytest.mark.parametrize(
    ("trusted", "host", "outcome"),
    [
        (True, "hooks.example", "delivered"),
        (True, "other.example", "unreachable"),
        (False, "hooks.example", "unreachable"),
    ],
)
async def test_the_certificate_is_checked_against_the_name(
    tmp_path: Path, trusted: bool, host: str, outcome: str
) -> None:
    certificate = make_certificate(tmp_path, "hooks.example")
    resolve, _ = resolving(["127.0.0.1"])
    tls = ssl.create_default_context(cafile=str(certificate)) if trusted else None
    async with https(certificate) as port:
        sender = Sender(timeout=SECONDS, allow_private=True, resolve=resolve, tls=tls)
        attempted = await sender.post(f"https://{host}:{port}/", {}, b"{}")
    assert attempted.outcome == outcome, attempted.detail
    if outcome == "unreachable":
        assert "certificate verify failed" in (attempted.detail or "").lower()


@asynccontextmanager
async def https(certificate: Path) -> AsyncIterator[int]:
    """Serve 200 over TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def make_certificate(directory: Path, name: str) -> Path:
    """Make a certificate that signs itself, with its key in the same file."""
    key, subject = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
    )
    now = datetime.now(UTC)
    build: Callable[..., Any] = x509.CertificateBuilder
    certificate = (
        build()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = directory / "certificate.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file
