"""The process that runs a stack: it starts the servers, keeps them as its children, and ends them when it is told to or its parent is gone.

`supervision.py` starts it as `python -m deploy.local.supervisor OPTIONS`. On stdout it says JSON objects, one a line: `{"say": …}`, then
`{"servers": […]}` or `{"error": …}`, or `{"taken": true}` when another supervisor runs the directory. On stdin, `keep` tells it to outlive its
parent; the end of input without that means that the parent is gone (however it ended: the kernel closes the pipe).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from deploy.local.directory import StackDirectory
from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from deploy.local.server import LocalServer, Options, Server
from shared.errors import TallystickError

_KINDS: dict[str, type[Kafka] | type[Postgres]] = {"postgres": Postgres, "kafka": Kafka}


def report(**message: Any) -> None:
    """Tell the parent; it may be gone, which is found out elsewhere."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)  # noqa: T201 (the protocol)


async def supervise(options: Options) -> None:
    """Run the servers until SIGTERM, or until the parent that did not say `keep` is gone."""
    directory = StackDirectory(options.directory)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watching = asyncio.create_task(_watch_parent(stop))
    servers: list[LocalServer] = [_KINDS[name](directory, options, os.environ) for name in options.servers]
    running = asyncio.create_task(_run(servers, directory, stop))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    finally:
        await asyncio.gather(*(server.stop(gracefully=not options.throw_away) for server in servers))
        directory.state.unlink(missing_ok=True)
        if options.throw_away:
            # The logs of a failed start are what its error points to.
            directory.purge(but_logs=running.done() and not running.cancelled() and running.exception() is not None)
        watching.cancel()


async def _run(servers: Sequence[LocalServer], directory: StackDirectory, stop: asyncio.Event) -> None:
    def say(line: str) -> None:
        report(say=line)

    # Before any process is forked: a fork beside running threads is not safe.
    for server in servers:
        await asyncio.to_thread(server.prepare, say)
    async with asyncio.TaskGroup() as group:
        starting = [group.create_task(server.start(say)) for server in servers]
    answering: list[Server] = [task.result() for task in starting]
    directory.write(directory.state, {"supervisor": os.getpid(), "servers": [server.to_json() for server in answering]})
    report(servers=[server.to_json() for server in answering])
    await stop.wait()


async def _watch_parent(stop: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        if line.strip() == b"keep":
            return
    stop.set()


async def _supervise_and_exit(options: Options) -> None:
    try:
        await supervise(options)
    except* TallystickError as errors:
        report(error=str(_first(errors)))
    except* OSError as errors:
        report(error=f"the local stack could not be started: {_first(errors)}")
    # Without waiting for threads: a download that hangs must not keep this process.
    os._exit(0)


def _first(errors: BaseException) -> BaseException:
    return _first(errors.exceptions[0]) if isinstance(errors, BaseExceptionGroup) else errors


def main() -> None:
    options = Options.from_json(json.loads(sys.argv[1]))
    directory = StackDirectory(options.directory)
    with directory.held() as free:
        if not free:
            report(taken=True)
            return
        directory.state.unlink(missing_ok=True)
        asyncio.run(_supervise_and_exit(options))


if __name__ == "__main__":
    main()
