"""A real control plane of Kubernetes on this machine: etcd, the API server, and the controllers that a rollout needs.

`make test-k8s` builds the program from `controlplane/`, with Go.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.local import ports
from tests.k8s.api_server import ApiServer

READY_WITHIN_SECONDS: Final = 90.0


@contextlib.contextmanager
def control_plane(program: Path, folder: Path) -> Iterator[ApiServer]:
    """Run all three in `folder`, where their logs are, and end them afterwards. Raises `RuntimeError` if one does not start."""
    token = secrets.token_hex(16)
    (folder / "token").write_text(token)
    (folder / "tokens.csv").write_text(f'{token},tests,tests,"system:masters"\n')
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "accounts.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate = folder / "certificates" / "apiserver.crt"
    with contextlib.ExitStack() as stack:
        etcd, peers, port = (ports.choose() for _ in range(3))
        stack.enter_context(_program(program, "etcd", _etcd(etcd, peers, folder), folder))
        server = stack.enter_context(_program(program, "apiserver", _api_server(etcd, port, folder), folder))
        # The server makes its certificate when it starts.
        _until(certificate.exists, server, folder / "apiserver.log")
        api = ApiServer(f"https://127.0.0.1:{port}", token, certificate)
        stack.callback(api.close)
        _until(api.is_ready, server, folder / "apiserver.log")
        controllers = [api.address, str(folder / "token"), str(certificate)]
        stack.enter_context(_program(program, "controllers", controllers, folder))
        yield api


def _etcd(port: int, peers: int, folder: Path) -> list[str]:
    own, other = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={own}",
        f"--advertise-client-urls={own}",
        f"--listen-peer-urls={other}",
        f"--initial-advertise-peer-urls={other}",
        f"--initial-cluster=default={other}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(etcd: int, port: int, folder: Path) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",  # it would tell pods of this address, and no pod runs
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        "--service-account-issuer=https://kubernetes.test",
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
    ]


@contextlib.contextmanager
def _program(program: Path, name: str, flags: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of the programs. It is killed if this process is: setpriv sees to it."""
    command = ["setpriv", "--pdeathsig", "KILL", str(program), name, *flags]
    with (folder / f"{name}.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()  # there is nothing to save


def _until(ready: object, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll until `ready()`; whoever starts a server has nothing else to wait for."""
    assert callable(ready)
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").splitlines()[-5:]
            raise RuntimeError(f"the API server did not start (its log is {log}): {' | '.join(last)}")
        time.sleep(0.05)
