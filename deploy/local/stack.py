"""Start, find and stop a stack. Servers that the environment names are used as they are; nothing is started for those."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local import external
from deploy.local.directory import StackDirectory, local_directory
from deploy.local.errors import LocalStackError
from deploy.local.server import Options, Say, Server
from deploy.local.supervision import ChildSupervisor, end_supervisor, is_alive, wait_for_servers

SERVERS = ("postgres", "kafka")


@dataclass(frozen=True, slots=True)
class Stack:
    """The servers that answer now. Asking for one that was not started raises `LocalStackError`."""

    servers: tuple[Server, ...]
    directory: Path
    ended: tuple[Server, ...] = ()
    """Servers of this stack that are there no more, though nobody asked them to end."""

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
    """The stack of this checkout that runs now, or None. Looks only at processes; asks no server."""
    place = StackDirectory(directory or local_directory(os.environ))
    if place.supervisor() is None:
        return None
    servers = [Server.from_json(value) for value in place.read(place.state).get("servers", [])]
    alive = [server for server in servers if server.pid and is_alive(server.pid)]
    return Stack(tuple(alive), place.path, ended=tuple(server for server in servers if server not in alive))


def down(*, directory: Path | None = None, purge: bool = False, say: Say = nothing) -> bool:
    """Stop the stack of this checkout and, with `purge`, remove its data. Returns whether one was running."""
    place = StackDirectory(directory or local_directory(os.environ))
    supervisor = place.supervisor()
    if supervisor is not None:
        say(f"stopping the local stack (process {supervisor})")
        end_supervisor(place, supervisor)
    if purge and place.path.exists():
        place.purge()
        say(f"removed {place.path}")
    return supervisor is not None


class RunningStack:
    """A stack whose lifetime is tied to this process until `keep` is called."""

    def __init__(self, stack: Stack, supervisor: ChildSupervisor | None) -> None:
        self.stack = stack
        self._supervisor = supervisor

    def keep(self) -> None:
        """Let the servers outlive this process; `down` ends them. Pointless for a stack without a directory of its own."""
        if self._supervisor is not None:
            self._supervisor.keep()
            self._supervisor = None

    def end(self) -> None:
        """Stop what was started for us."""
        if self._supervisor is not None:
            self._supervisor.end()
            self._supervisor = None


@contextlib.contextmanager
def running_stack(
    *,
    directory: Path | None = None,
    servers: Sequence[str] = SERVERS,
    durable: bool = True,
    postgres_settings: Mapping[str, str] | None = None,
    kafka_properties: Mapping[str, str] | None = None,
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
    if named:
        asyncio.run(external.check(named))
    wanted = tuple(name for name in SERVERS if name in servers and name not in {server.name for server in named})
    if not wanted:
        yield RunningStack(Stack(tuple(named), directory or local_directory(environ)), None)
        return
    place = StackDirectory(directory or Path(tempfile.mkdtemp(prefix="tallystick-")))
    options = Options(
        place.path,
        wanted,
        durable=durable,
        throw_away=directory is None,
        postgres_settings=postgres_settings,
        kafka_properties=kafka_properties,
    )
    place.create()
    running = _start_or_find(place, options, named, say)
    try:
        yield running
    finally:
        running.end()


def _start_or_find(place: StackDirectory, options: Options, named: Sequence[Server], say: Say) -> RunningStack:
    found = _find(place, options, say)
    if found is None:
        supervisor = ChildSupervisor(place, options)
        try:
            started = supervisor.follow(say)
        except BaseException:
            supervisor.end()
            raise
        if started is not None:
            return RunningStack(Stack((*named, *started), place.path), supervisor)
        supervisor.end()  # another one was quicker
        found = wait_for_servers(place)
    return RunningStack(Stack((*named, *found), place.path), None)


def _find(place: StackDirectory, options: Options, say: Say) -> tuple[Server, ...] | None:
    """The servers of a stack that already runs here, if it has all that is wanted; a maimed one is stopped."""
    supervisor = place.supervisor()
    if supervisor is None:
        return None
    by_name = {server.name: server for server in wait_for_servers(place) if server.pid and is_alive(server.pid)}
    if all(name in by_name for name in options.servers):
        say(f"found the local stack running in {place.path} (process {supervisor})")
        return tuple(by_name[name] for name in options.servers)
    say(f"the local stack in {place.path} lacks {', '.join(set(options.servers) - set(by_name))}: starting it again")
    end_supervisor(place, supervisor)
    return None
