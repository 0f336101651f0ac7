"""Prometheus, and Grafana where there is one, beside a demo: with the configuration, the rules and the dashboards of `deploy/`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import deploy
from deploy.local import ports, processes
from services.cli.supervisor import WorkerSpec, ask
from shared.errors import ConfigurationError

_DEPLOY: Final = Path(deploy.__path__[0])
CONFIGURATION: Final = _DEPLOY / "prometheus" / "prometheus.yml"
RULES: Final = _DEPLOY / "prometheus" / "rules.yml"
_GRAFANA: Final = _DEPLOY / "grafana"
PROMETHEUS_PORT: Final = 9090
GRAFANA_PORT: Final = 3000
SCRAPE: Final = "1s"
"""In place of what is written in `deploy/`: a demo is over soon."""
_READY_SECONDS: Final = 60.0
_TARGETS: Final = re.compile(r"^ {4}static_configs:\n(?: {6}.*\n)+", re.MULTILINE)
_FROM_A_FILE: Final = "    file_sd_configs:\n      - files: [targets.json]\n        refresh_interval: 1s\n"


@dataclass(frozen=True, slots=True)
class Programs:
    """What there is to look with. `grafana` None: there is none on this machine."""

    prometheus: str
    grafana: str | None


def find_programs(environ: Mapping[str, str]) -> Programs:
    """Return the programs that variables name, else those on PATH. Raises `ConfigurationError` without a Prometheus."""
    prometheus = shutil.which(environ.get("TALLYSTICK_PROMETHEUS") or "prometheus")
    if prometheus is None:
        raise ConfigurationError(
            "there is no Prometheus: install it (Debian's package prometheus; else prometheus.io/download), "
            "and put it on PATH or name the program in TALLYSTICK_PROMETHEUS"
        )
    return Programs(prometheus, shutil.which(environ.get("TALLYSTICK_GRAFANA") or "grafana"))


def configuration() -> str:
    """Return Prometheus' configuration with the targets that `targets.json` names, and looked at as often as a demo needs."""
    text, replaced = _TARGETS.subn(_FROM_A_FILE, CONFIGURATION.read_text(encoding="utf-8"))
    if replaced != 1:
        raise ConfigurationError(f"{CONFIGURATION} does not name its targets as expected: static_configs in one job")
    return re.sub(r"(scrape|evaluation)_interval: \w+", rf"\1_interval: {SCRAPE}", text)


def targets(specs: Sequence[WorkerSpec]) -> str:
    """Return the workers as Prometheus' file of targets."""
    named = [
        {"targets": [f"{ports.HOST}:{spec.port}"], "labels": {"service": spec.module.rpartition(".")[2]}}
        for spec in specs
    ]
    return json.dumps(named, indent=1)


@asynccontextmanager
async def prometheus(
    program: str, directory: Path, specs: Sequence[WorkerSpec], *, rules: str | None = None
) -> AsyncIterator[str]:
    """Run a Prometheus that asks these workers, in a fresh directory; yield its address. Raises `LocalStackError` if it does not start.

    `rules` takes the place of those in `deploy/`.
    """
    _configure(directory, specs, rules or RULES.read_text(encoding="utf-8"))
    port = ports.choose(PROMETHEUS_PORT)
    arguments = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={ports.HOST}:{port}",
        "--log.level=warn",
    ]
    async with _running(arguments, directory / "prometheus.log", port, "/-/ready", what="Prometheus"):
        yield f"http://{ports.HOST}:{port}"


def _configure(directory: Path, specs: Sequence[WorkerSpec], rules: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, content in (("prometheus.yml", configuration()), ("rules.yml", rules), ("targets.json", targets(specs))):
        (directory / name).write_text(content, encoding="utf-8")


@asynccontextmanager
async def grafana(program: str, directory: Path, prometheus_url: str) -> AsyncIterator[str]:
    """Run a Grafana with our dashboards over this Prometheus; yield its address. Raises `LocalStackError` if it does not start."""
    provision(directory, prometheus_url)
    port = ports.choose(GRAFANA_PORT)
    settings = {
        "GF_PATHS_PROVISIONING": str(directory / "provisioning"),
        "GF_PATHS_DATA": str(directory / "data"),
        "GF_PATHS_LOGS": str(directory / "logs"),
        "GF_SERVER_HTTP_ADDR": ports.HOST,
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    home = os.environ.get("GF_PATHS_HOME") or "/usr/share/grafana"
    arguments = ["env", *(f"{name}={value}" for name, value in settings.items()), program, "server", "--homepath", home]
    async with _running(arguments, directory / "grafana.log", port, "/api/health", what="Grafana"):
        yield f"http://{ports.HOST}:{port}/dashboards"


def provision(directory: Path, prometheus_url: str) -> None:
    """Write what Grafana is provisioned with: what is in `deploy/`, with this Prometheus and the place of the dashboards."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(_GRAFANA / "provisioning", directory / "provisioning")
    for file, old, new in (
        ("datasources/prometheus.yaml", "http://prometheus:9090", prometheus_url),
        ("dashboards/tallystick.yaml", "/etc/grafana/dashboards", str(_GRAFANA / "dashboards")),
    ):
        path = directory / "provisioning" / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@asynccontextmanager
async def _running(arguments: Sequence[str], log: Path, port: int, health: str, *, what: str) -> AsyncIterator[None]:
    process = await processes.spawn(arguments, log=log, when_parent_dies=signal.SIGTERM)

    async def answers() -> bool:
        return (await ask(port, health))[0] == 200

    try:
        await processes.wait_until(answers, process, seconds=_READY_SECONDS, log=log, what=what)
        yield
    finally:
        await processes.stop(process, signal.SIGTERM)
