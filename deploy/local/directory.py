"""The one directory of a stack: its data, its logs, what it remembers, and who runs it now."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.local.errors import LocalStackError

ENVIRONMENT_NAME = "TALLYSTICK_LOCAL_DIR"
_ROOT_MARKS = ("pyproject.toml", ".git")


def local_directory(environ: Mapping[str, str]) -> Path:
    """Where the stack of this checkout lives: TALLYSTICK_LOCAL_DIR, else `.tallystick/local` in the project around the current directory."""
    if named := environ.get(ENVIRONMENT_NAME):
        return Path(named).expanduser().resolve()
    here = Path.cwd()
    root = next(
        (place for place in (here, *here.parents) if any((place / mark).exists() for mark in _ROOT_MARKS)), here
    )
    return root / ".tallystick" / "local"


class StackDirectory:
    """Names of the files in a stack's directory, and the lock that tells whether a supervisor runs it.

    The supervisor holds an exclusive `flock` on `lock` for as long as it lives, so that "is it running" needs no guessing about reused
    process ids: the kernel lets the lock go however the supervisor ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.state = path / "state.json"
        self.remembered = path / "remembered.json"
        self.postgres_data = path / "postgres"
        self.postgres_log = path / "postgres.log"
        self.kafka = path / "kafka"
        self.kafka_log = path / "kafka.log"
        self.supervisor_log = path / "supervisor.log"

    def create(self) -> None:
        """Make the directory: for its owner only, but for root others may pass through it, since Postgres must run as another account."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        except OSError as error:
            raise LocalStackError(
                f"the directory {self.path} cannot be used: {error}; set {ENVIRONMENT_NAME}"
            ) from error

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lock with our process id in it; yields False when another supervisor holds it."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock_exclusively(descriptor):
                yield False
                return
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            yield True
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def supervisor(self) -> int | None:
        """The process id of the running supervisor, or None when there is none."""
        try:
            with self.lock.open(encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read() or 0) or None
        except FileNotFoundError:
            pass
        return None

    def read(self, file: Path) -> dict[str, Any]:
        """The JSON object in `file`, empty when there is none."""
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return content

    def write(self, file: Path, content: Mapping[str, Any]) -> None:
        """Replace `file` at once, readable by its owner only: it holds the database password."""
        aside = file.with_suffix(".new")
        aside.touch(mode=0o600)
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        aside.replace(file)

    def remember(self, **values: Any) -> None:
        """Keep values for the next start: ports, so that addresses stay, and the database's password."""
        self.write(self.remembered, self.read(self.remembered) | values)

    def remove(self, path: Path) -> None:
        """Remove a file or a directory with all in it, if it is there."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def purge(self, *, but_logs: bool = False) -> None:
        """Remove what a stack puts here, and the directory if nothing else is in it."""
        logs = () if but_logs else (self.postgres_log, self.kafka_log, self.supervisor_log)
        data = (self.postgres_data, self.postgres_data.with_suffix(".new"), self.kafka)
        for path in (*data, self.state, self.remembered, *logs, self.lock):
            self.remove(path)
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _lock_exclusively(descriptor: int) -> bool:
    """Try for a moment: someone who only asks whether the lock is held shares it for an instant."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False
