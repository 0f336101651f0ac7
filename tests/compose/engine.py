"""An engine that speaks Docker's API: Docker's own where one answers, else podman's, started here with storage of its own and
ended with what ran in it. Podman needs root, and the Debian packages that `make test-containers` names."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import containers
from tests.compose.composition import ROOT

DOCKERFILE: Final = "deploy/Dockerfile"
BASE_PACKAGES: Final = "python3,python3-venv,ca-certificates"
BASE_RELEASE: Final = "bookworm"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
ANSWERS_SECONDS: Final = 30
_INSTALLER: Final = ("index-url", "extra-index-url", "trusted-host", "default-timeout", "timeout")
"""Settings of pip that say where packages come from on this machine."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where containers run. `client` is that of the Python package docker; `base` the image that ours is built on."""

    client: Any
    base: str

    def build(
        self, tag: str, *, context: Path = ROOT, dockerfile: str = DOCKERFILE
    ) -> subprocess.CompletedProcess[str]:
        """Build an image; the caller looks at the exit code."""
        raise NotImplementedError


class Docker(Engine):
    """The engine of this machine."""

    def build(
        self, tag: str, *, context: Path = ROOT, dockerfile: str = DOCKERFILE
    ) -> subprocess.CompletedProcess[str]:
        options = ("--file", str(context / dockerfile), "--build-arg", f"BASE={self.base}", "--tag", tag)
        return _run("docker", "build", *options, str(context))


@dataclass(frozen=True, slots=True)
class Podman(Engine):
    """An engine of our own, on a base that was made here: no registry of images is asked."""

    place: Path
    environ: Mapping[str, str]

    def build(
        self, tag: str, *, context: Path = ROOT, dockerfile: str = DOCKERFILE
    ) -> subprocess.CompletedProcess[str]:
        options = ["--isolation", "chroot", "--layers=false", "--file", str(context / dockerfile), "--tag", tag]
        options += ["--build-arg", f"BASE={self.base}", "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        options += ["--volume", f"{_pip_configuration(self.place)}:/etc/pip.conf:ro"]
        return _run("buildah", *_storage(self.place), "bud", *options, str(context), environ=self.environ)


@contextmanager
def engine() -> Iterator[Engine]:
    """Yield an engine, and name it in DOCKER_HOST, where testcontainers looks for it."""
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # its image would come from a registry
    if containers.engine_answers():
        import docker  # type: ignore[import-untyped]  # noqa: PLC0415

        yield Docker(docker.from_env(), "docker.io/library/python:3.12-slim-bookworm")
        return
    missing = [program for program in ("podman", "buildah", "runc", "mmdebstrap") if not shutil.which(program)]
    assert not missing, f"no Docker answers, and {', '.join(missing)} is not installed: see make test-containers"
    place = Path(tempfile.mkdtemp(prefix="tallystick-containers-", dir="/var/tmp"))
    before = os.environ.get("DOCKER_HOST")
    try:
        with _podman(place) as found:
            yield found
    finally:
        os.environ.pop("DOCKER_HOST", None)
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        _throw_away(place)


@contextmanager
def _podman(place: Path) -> Iterator[Podman]:
    import docker  # noqa: PLC0415

    environ = {**os.environ, "CONTAINERS_CONF": str(_containers_conf(place))}
    base = "localhost/base:latest"
    imported = _run("podman", *_storage(place), "import", str(base_system()), base, environ=environ)
    assert imported.returncode == 0, imported.stderr
    socket = f"unix://{place}/podman.sock"
    log = (place / "service.log").open("wb")
    command = ("podman", *_storage(place), "system", "service", "--time=0", socket)
    service = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    os.environ["DOCKER_HOST"] = socket
    try:
        deadline = time.monotonic() + ANSWERS_SECONDS
        while not containers.engine_answers():
            assert service.poll() is None, (place / "service.log").read_text()
            assert time.monotonic() < deadline, "podman's service does not answer"
            time.sleep(0.1)
        yield Podman(docker.DockerClient(base_url=socket, timeout=120), base, place, environ)
    finally:
        _run("podman", *_storage(place), "rm", "--all", "--force", "--time=0", environ=environ)
        service.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            service.wait(20)
        service.kill()
        log.close()


def base_system() -> Path:
    """Return a tarball of Debian with Python, made once and kept beside the jars of the local Kafka."""
    home = os.environ.get("XDG_CACHE_HOME")
    kept = (Path(home) if home else Path.home() / ".cache") / "tallystick" / "containers" / f"{BASE_RELEASE}.tar"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = kept.with_suffix(f".{secrets.token_hex(4)}.tar")
        options = ("--variant=minbase", f"--include={BASE_PACKAGES}", BASE_RELEASE)
        done = _run("mmdebstrap", *options, str(made))
        assert done.returncode == 0, done.stderr[-4_000:]
        made.replace(kept)
    return kept


def _storage(place: Path) -> tuple[str, ...]:
    """Options of podman and buildah. Overlay where the kernel lets us, as vfs copies all of an image for every container."""
    driver = "overlay" if _can_overlay(place) else "vfs"
    return (f"--root={place}/storage", f"--runroot={place}/run", f"--storage-driver={driver}")


def _can_overlay(place: Path) -> bool:
    """Whether an overlay can be mounted on top of this directory; what was found is kept there."""
    found = place / "overlay"
    if not found.exists():
        lower, upper, work, merged = (place / "probe" / name for name in ("lower", "upper", "work", "merged"))
        for folder in (lower, upper, work, merged):
            folder.mkdir(parents=True)
        mounted = _run(
            "mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay", str(merged)
        )
        if mounted.returncode == 0:
            _run("umount", str(merged))
        found.write_text("yes" if mounted.returncode == 0 else "no")
    return found.read_text() == "yes"


def _containers_conf(place: Path) -> Path:
    networks = place / "networks"
    networks.mkdir()
    file = place / "containers.conf"
    file.write_text(
        "[containers]\ndefault_ulimits = []\nlog_driver = 'k8s-file'\n"
        f"[network]\nnetwork_backend = 'netavark'\nnetwork_config_dir = '{networks}'\n"
        "[engine]\nruntime = 'runc'\ncgroup_manager = 'cgroupfs'\nevents_logger = 'file'\nexit_command_delay = 1\n"
    )
    return file


def _pip_configuration(place: Path) -> Path:
    """Write for pip in the build what pip here is told about indexes, and nothing of it into the image."""
    said = _run(sys.executable, "-m", "pip", "config", "list").stdout
    settings = {"cert": str(CERTIFICATES)}
    for line in said.splitlines():
        name, _, value = line.partition("=")
        if name.rpartition(".")[2] in _INSTALLER:
            settings[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    file = place / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return file


def _throw_away(place: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((point for point in mounted if point.startswith(f"{place}/")), reverse=True):
        _run("umount", "--lazy", point)
    shutil.rmtree(place, ignore_errors=True)


def _run(*command: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=600)
