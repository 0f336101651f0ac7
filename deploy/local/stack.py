"""Start, find and stop a stack. Servers that the environment names are used as they are; nothing is started for those."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deploy.local import external
from deploy.local.directory import StackDirectory, local_directory
from deploy.local.errors import LocalStackError, last_line
from deploy.local.server import Options, Say, Server

SERVERS = ("postgres", "kafka")
_START_SECONDS = 300  # for someone else's start that we wait for, with all downloads
_STOP_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Stack:
    """The servers that answer now. Asking for one that was not started raises `LocalStackError`."""

    servers: tuple[Server, ...]
    directory: Path

    @property
    def database_url(self) -> str:
        return self._address("postgres")

    @property
    def kafka_bootstrap_servers(self) -> str:
        return self._address("kafka")

    def environment(self) -> dict[str, str]:
        """The environment variables by which any program finds these servers."""
        return {external.VARIABLES[server.name]: server.address for server in self.servers}

    def _address(self, name: str) -> str:
        for server in self.servers:
            if server.name == name:
                return server.address
        raise LocalStackError(f"this stack was started without {name}")


def nothing(_: str) -> None:
    """A `say` for when nobody listens."""


def up(
    *, directory: Path | None = None, servers: Sequence[str] = SERVERS, durable: bool = True, say: Say = nothing
) -> Stack:
    """Start the stack of this checkout, or find it running. It stays until `down`.

    Raises `LocalStackError` when a server cannot be started and `ServiceUnavailable` when one that the environment names does not answer;
    nothing is left running then.
    """
    place = directory or local_directory(os.environ)
    with running_stack(directory=place, servers=servers, durable=durable, say=say) as running:
        running.keep()
        return running.stack


def status(directory: Path | None = None) -> Stack | None:
    """The stack of this checkout that runs now (without servers that have died), or None."""
    place = StackDirectory(directory or local_directory(os.environ))
    if place.supervisor() is None:
        return None
    servers = [Server.from_json(value) for value in place.read(place.state).get("servers", [])]
    return Stack(tuple(server for server in servers if server.pid and _is_alive(server.pid)), place.path)


def down(*, directory: Path | None = None, purge: bool = False, say: Say = nothing) -> bool:
    """Stop the stack of this checkout and, with `purge`, remove its data. Returns whether one was running."""
    place = StackDirectory(directory or local_directory(os.environ))
    supervisor = place.supervisor()
    if supervisor is not None:
        say(f"stopping the local stack (process {supervisor})")
        _end(place, supervisor)
    if purge and place.path.exists():
        place.purge()
        say(f"removed {place.path}")
    return supervisor is not None


class RunningStack:
    """A stack whose lifetime is tied to this process until `keep` is called."""

    def __init__(self, stack: Stack, supervisor: subprocess.Popen[str] | None) -> None:
        self.stack = stack
        self._supervisor = supervisor

    def keep(self) -> None:
        """Let the servers outlive this process; `down` ends them."""
        if self._supervisor is not None:
            assert self._supervisor.stdin is not None
            self._supervisor.stdin.write("keep\n")
            self._supervisor.stdin.flush()
            _let_go(self._supervisor)
            self._supervisor = None

    def end(self) -> None:
        """Stop what was started for us."""
        if self._supervisor is not None:
            _end_with_us(self._supervisor)
            self._supervisor = None


@contextlib.contextmanager
def running_stack(
    *,
    directory: Path | None = None,
    servers: Sequence[str] = SERVERS,
    durable: bool = True,
    postgres_settings: Mapping[str, str] | None = None,
    say: Say = nothing,
) -> Iterator[RunningStack]:
    """A stack for as long as the block runs; its processes end with this process, even if it is killed.

    With a `directory` its data stay there, and a stack that already runs there is used and left running. Without, the data are in a
    temporary directory and thrown away at the end. `durable=False` is for tests: faster, unsafe only if the machine itself crashes.
    Raises as `up` does.
    """
    environ = os.environ
    named = [server for server in external.servers_named_in(environ) if server.name in servers]
    for server in named:
        say(f"{server.name.capitalize()}: {server.description}; nothing is started for it")
    asyncio.run(external.check(named))
    wanted = tuple(name for name in SERVERS if name in servers and name not in {server.name for server in named})
    if not wanted:
        yield RunningStack(Stack(tuple(named), directory or local_directory(environ)), None)
        return
    place = StackDirectory(directory or Path(tempfile.mkdtemp(prefix="tallystick-")))
    options = Options(
        place.path, wanted, durable=durable, throw_away=directory is None, postgres_settings=postgres_settings
    )
    supervisor, started = _start_or_find(place, options, say)
    running = RunningStack(Stack((*named, *started), place.path), supervisor)
    try:
        yield running
    finally:
        running.end()


def _start_or_find(
    place: StackDirectory, options: Options, say: Say
) -> tuple[subprocess.Popen[str] | None, tuple[Server, ...]]:
    place.create()
    found = _find(place, options, say)
    if found is not None:
        return None, found
    supervisor = _launch(place, options)
    try:
        started = _follow(supervisor, place, say)
    except BaseException:
        _end_with_us(supervisor)
        raise
    if started is None:  # another one was quicker
        _end_with_us(supervisor)
        return None, _wait_for(place)
    return supervisor, started


def _find(place: StackDirectory, options: Options, say: Say) -> tuple[Server, ...] | None:
    """The servers of a stack that already runs here, if it has all that is wanted; a maimed one is stopped."""
    supervisor = place.supervisor()
    if supervisor is None:
        return None
    servers = _wait_for(place)
    by_name = {server.name: server for server in servers if server.pid and _is_alive(server.pid)}
    if all(name in by_name for name in options.servers):
        say(f"found the local stack running in {place.path} (process {supervisor})")
        return tuple(by_name[name] for name in options.servers)
    say(f"the local stack in {place.path} lacks {', '.join(set(options.servers) - set(by_name))}: starting it again")
    _end(place, supervisor)
    return None


def _wait_for(place: StackDirectory) -> tuple[Server, ...]:
    """The servers of a stack that somebody else is starting or has started."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and place.supervisor() is not None:
        if state := place.read(place.state):
            return tuple(Server.from_json(value) for value in state["servers"])
        time.sleep(0.1)
    raise LocalStackError(
        f"the stack that was being started in {place.path} did not come up: see the logs there, then try again"
    )


def _launch(place: StackDirectory, options: Options) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with place.supervisor_log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.local.supervisor", json.dumps(options.to_json())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C in the terminal is for us; we then tell it
        )


def _follow(supervisor: subprocess.Popen[str], place: StackDirectory, say: Say) -> tuple[Server, ...] | None:
    """Relay what the supervisor says until its servers answer; None when another supervisor runs the directory."""
    assert supervisor.stdout is not None
    for message in _messages(supervisor.stdout):
        if "say" in message:
            say(message["say"])
        elif "error" in message:
            raise LocalStackError(message["error"])
        elif "taken" in message:
            return None
        else:
            return tuple(Server.from_json(value) for value in message["servers"])
    log = place.supervisor_log
    raise LocalStackError(f"the supervisor of the local stack ended: {last_line(log)} (all of it in {log})")


def _messages(lines: IO[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)


def _let_go(supervisor: subprocess.Popen[str]) -> None:
    for stream in (supervisor.stdin, supervisor.stdout):
        assert stream is not None
        stream.close()


def _end_with_us(supervisor: subprocess.Popen[str]) -> None:
    """The end of its input tells the supervisor to stop; only if it does not is it killed, and its children with it."""
    _let_go(supervisor)
    try:
        supervisor.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()


def _end(place: StackDirectory, supervisor: int) -> None:
    """End a supervisor that is not our child, and return when it has let go of the directory."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(supervisor, number)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise LocalStackError(
                f"the local stack in {place.path} (process {supervisor}) belongs to another user: stop it as that user"
            ) from error
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if place.supervisor() is None:
                return
            time.sleep(0.05)
    raise LocalStackError(
        f"the local stack in {place.path} (process {supervisor}) does not stop: see {place.supervisor_log}"
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
