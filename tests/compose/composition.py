"""What deploy/compose.yaml says, as podman-compose reads it: services with their constraints, in the order in which they start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "deploy" / "compose.yaml"
OURS: Final = ("migrate", "seed", "topics", "backup", "ingest", "aggregator", "billing", "api")
"""The services that run our image."""
ON_DEMAND: Final = "backup"
"""The one of them that `up` leaves alone: it has a profile, of the same name."""
WORKERS: Final = ("ingest", "aggregator", "billing", "api")

Definition = dict[str, Any]
"""One service, with all variables filled in and all that it shares with others merged."""


def read(variables: Mapping[str, str] | None = None, *, file: Path = COMPOSE) -> dict[str, Definition]:
    """Return the services by name. `variables` are what a user would export before `docker compose up`."""
    command = [str(Path(sys.executable).with_name("podman-compose"))]
    command += ["--file", str(file), "--profile", ON_DEMAND, "config"]
    environ = {"PATH": os.environ["PATH"], **(variables or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=60)
    assert done.returncode == 0, done.stderr
    services: dict[str, Definition] = yaml.safe_load(done.stdout)["services"]
    return services


def start_order(services: Mapping[str, Definition]) -> Iterator[str]:
    """Yield names so that each comes after those that it depends on; otherwise as they are in the file."""
    sorter = TopologicalSorter({name: set(definition.get("depends_on", {})) for name, definition in services.items()})
    sorter.prepare()
    while sorter.is_active():
        ready = set(sorter.get_ready())
        yield from (name for name in services if name in ready)
        sorter.done(*ready)


def mounts(definition: Definition) -> Iterator[tuple[str, str, bool]]:
    """Yield what is mounted: a path of this repository (from ./) or the name of a volume, where, and whether read-only."""
    for volume in definition.get("volumes", ()):
        source, target, *options = volume.split(":")
        yield source, target, options == ["ro"]
