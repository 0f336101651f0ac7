"""The other side of `supervisor.py`: starting a supervisor as our child, and dealing with one that somebody else started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, cast

from deploy.local.directory import StackDirectory
from deploy.local.errors import LocalStackError, last_line
from deploy.local.server import Options, Say, Server

_START_SECONDS = 300  # for a start of somebody else's, with all its downloads
_STOP_SECONDS = 90
_POLL_SECONDS = 0.05
_EXIT_SECONDS = 1


class ChildSupervisor:
    """A supervisor that ends with this process, unless it is told to keep."""

    def __init__(self, place: StackDirectory, options: Options) -> None:
        self._place = place
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with place.supervisor_log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deploy.local.supervisor", json.dumps(options.to_json())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we then tell it
            )
        self._commands = cast(IO[str], self._process.stdin)
        self._messages = cast(IO[str], self._process.stdout)

    def follow(self, say: Say) -> tuple[Server, ...] | None:
        """Relay what it says until its servers answer; None when another supervisor runs the directory. Raises `LocalStackError`."""
        for line in self._messages:
            message = json.loads(line)
            if "say" in message:
                say(message["say"])
            elif "error" in message:
                raise LocalStackError(message["error"])
            elif "taken" in message:
                return None
            else:
                return tuple(Server.from_json(value) for value in message["servers"])
        log = self._place.supervisor_log
        raise LocalStackError(f"the supervisor of the local stack ended: {last_line(log)} (all of it in {log})")

    def keep(self) -> None:
        """Let it outlive us."""
        self._commands.write("keep\n")
        self._commands.flush()
        self._let_go()
        self._process.returncode = 0  # nobody waits for it any more, and Popen need not warn of that

    def end(self) -> None:
        """The end of its input tells it to stop; only if it does not is it killed, and its children with it."""
        self._let_go()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _let_go(self) -> None:
        self._commands.close()
        self._messages.close()


def wait_for_servers(place: StackDirectory) -> tuple[Server, ...]:
    """The servers of a supervisor that somebody else has started or is starting. Raises `LocalStackError` when it fails."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and place.supervisor() is not None:
        if state := place.read(place.state):
            return tuple(Server.from_json(value) for value in state["servers"])
        time.sleep(_POLL_SECONDS)
    raise LocalStackError(
        f"the stack that was being started in {place.path} did not come up: see the logs there, then try again"
    )


def end_supervisor(place: StackDirectory, pid: int) -> None:
    """End a supervisor that is not our child, and return when it has let go of the directory. Raises `LocalStackError`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise LocalStackError(
                f"the local stack in {place.path} (process {pid}) belongs to another user: stop it as that user"
            ) from error
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if place.supervisor() is None:
                _wait_for_exit(pid)
                return
            time.sleep(_POLL_SECONDS)
    raise LocalStackError(f"the local stack in {place.path} (process {pid}) does not stop: see {place.supervisor_log}")


def _wait_for_exit(pid: int) -> None:
    """The lock is let go an instant before the process is gone. Not for long: it may be a zombie that nobody collects."""
    deadline = time.monotonic() + _EXIT_SECONDS
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS / 5)


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs, anybody's. One that has ended and only waits to be collected does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    state = status.rpartition(")")[2].split()[0]
    return state not in ("Z", "X")
