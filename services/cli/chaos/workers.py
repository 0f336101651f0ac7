"""The harness' processes: workers that are kept running as forks of a zygote, and helpers that run once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

from services.cli.supervisor import Supervisor, WorkerSpec


class Forked:
    """A process that the zygote has forked, with the part of `asyncio.subprocess.Process` that a supervisor needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.ended = asyncio.Event()

    async def wait(self) -> int:
        await self.ended.wait()
        assert self.returncode is not None, "it has ended"  # noqa: S101
        return self.returncode

    def send_signal(self, how: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, how)

    def terminate(self) -> None:
        self.send_signal(signal.SIGCONT)  # one that is stopped would not hear it
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The process that forks; an async context manager."""

    def __init__(self, environ: Mapping[str, str], log: Path) -> None:
        self._environ, self._log = dict(environ), log
        self._numbers = count()
        self._starting: dict[int, asyncio.Future[Forked]] = {}
        self._running: dict[int, Forked] = {}

    async def __aenter__(self) -> Zygote:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.cli.chaos.zygote", str(os.getpid()), env=self._environ,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None  # noqa: S101
        await self._process.stdout.readline()  # it is ready
        self._listening = asyncio.create_task(self._listen(), name="zygote")
        return self

    async def __aexit__(self, *_: object) -> None:
        for forked in list(self._running.values()):
            forked.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(*(forked.wait() for forked in list(self._running.values())))
        self._listening.cancel()
        self._process.kill()
        await self._process.wait()

    async def start(
        self,
        module: str,
        process: str,
        service: str,
        *,
        environ: Mapping[str, str],
        log: Path,
        arguments: Sequence[str] = (),
    ) -> Forked:
        """Fork and run a module as `process`, with the failpoints of `service`."""
        assert self._process.stdin is not None  # noqa: S101
        number = next(self._numbers)
        self._starting[number] = asyncio.get_running_loop().create_future()
        wanted = {
            "id": number, "module": module, "process": process, "service": service,
            "environ": {**self._environ, **environ}, "log": str(log), "arguments": list(arguments),
        }  # fmt: skip
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._starting[number]

    async def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        async for line in self._process.stdout:
            said = json.loads(line)
            if "id" in said:
                forked = self._running[said["pid"]] = Forked(said["pid"])
                self._starting.pop(said["id"]).set_result(forked)
            else:
                forked = self._running.pop(said["pid"])
                forked.returncode = said["code"]
                forked.ended.set()


class Workers(Supervisor):
    """A supervisor whose workers are forked. One that is held is not started again until it is let go."""

    def __init__(self, zygote: Zygote, specs: Sequence[WorkerSpec], logs: Path) -> None:
        super().__init__(specs, {}, logs=logs, tell=lambda _: None, steady_seconds=0)
        self._zygote = zygote
        self._free = {spec.name: asyncio.Event() for spec in specs}
        for free in self._free.values():
            free.set()

    async def __aenter__(self) -> Workers:
        await super().__aenter__()
        return self

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]

    def pids(self) -> dict[str, int]:
        """Return the process ids of the workers that run."""
        return {name: process.pid for name, process in self._processes.items() if process.returncode is None}

    async def hold(self, names: Sequence[str]) -> None:
        """End workers and keep them from being started again."""
        for name in names:
            self._free[name].clear()
            if name in self.running:
                self.kill(name)
                await self._processes[name].wait()

    def let_go(self, names: Sequence[str]) -> None:
        """Start held workers again."""
        for name in names:
            self._free[name].set()

    async def _start(self, spec: WorkerSpec) -> asyncio.subprocess.Process:
        await self._free[spec.name].wait()
        service = spec.name.rpartition("-")[0]
        environ = self._environ_of(spec)
        forked = await self._zygote.start(spec.module, spec.name, service, environ=environ, log=self._log(spec))
        return cast(asyncio.subprocess.Process, forked)

    def _environ_of(self, spec: WorkerSpec) -> Mapping[str, str]:
        found: dict[str, Any] = {
            "TALLYSTICK_INSTANCE": str(spec.instance),
            "TALLYSTICK_HTTP_HOST": "127.0.0.1",
            "TALLYSTICK_HTTP_PORT": str(spec.port),
        }
        return found
