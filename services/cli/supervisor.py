"""Keeps worker processes running: starts them, restarts one that dies, ends all of them with itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from deploy.local.errors import last_line
from shared.errors import ConfigurationError, ServiceUnavailable

EXIT_MISTAKE: Final = 2
"""What a worker ends with when a person has to mend something: restarting it would not help."""
RESTART_FIRST_SECONDS: Final = 0.2
RESTART_MOST_SECONDS: Final = 10.0
STEADY_SECONDS: Final = 30.0
"""A worker that ran for so long before it died is restarted as quickly as if it had never died."""
STOP_SECONDS: Final = 25.0
"""How long a worker may take to finish its batch before it is killed."""
_POLL_SECONDS: Final = 0.1
_HOST: Final = "127.0.0.1"
_ROOT: Final = Path(__file__).resolve().parents[2]

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker to run: `python -m module` as `instance`, with its metrics and probes on `port`."""

    module: str
    instance: int
    port: int
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of this worker alone."""

    @property
    def name(self) -> str:
        return f"{self.module.rpartition('.')[2]}-{self.instance}"

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"


class Supervisor:
    """Runs workers for as long as its `async with` block does. Also ends them if this process is killed (on Linux)."""

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        environ: Mapping[str, str],
        *,
        logs: Path | None,
        tell: Tell,
        steady_seconds: float = STEADY_SECONDS,
        child: str = "services.cli.child",
    ) -> None:
        """Workers write their JSON logs to `logs`/<name>.log, or to our stderr. `tell` hears of deaths and restarts.

        `child` is the module that ties a worker to this process.
        """
        self.specs = specs
        self.restarts: Counter[str] = Counter()
        self._environ = _with_our_path(environ)
        self._logs, self._tell, self._steady_seconds, self._child = logs, tell, steady_seconds, child
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._ready: set[str] = set()
        self._failed = asyncio.Event()
        self._failure = ""
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Supervisor:
        if self._logs:
            self._logs.mkdir(parents=True, exist_ok=True)
        self._keepers = [asyncio.create_task(self._keep(spec), name=spec.name) for spec in self.specs]
        return self

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(_end(process) for process in self._processes.values()))

    async def wait_until_ready(self, seconds: float) -> None:
        """Return when every worker answers 200 at /readyz. Raises `ServiceUnavailable` that names those that do not."""
        deadline = monotonic() + seconds
        while problems := await self.problems():
            self.raise_failure()
            if monotonic() > deadline:
                said = "; ".join(problems)
                raise ServiceUnavailable(f"workers are not ready after {seconds:.0f} s ({said}): look into their logs")
            await asyncio.sleep(_POLL_SECONDS)

    async def problems(self) -> list[str]:
        """Ask every worker whether it is ready; return what those say that are not."""
        problems: list[str] = []
        for spec in self.specs:
            status, answer = await ask(spec.port, "/readyz")
            if status == 200:
                self._ready.add(spec.name)
            else:
                problems.append(f"{spec.name}: {answer.strip()}")
        return problems

    async def wait_for_failure(self) -> None:
        """Return never, but raise when a worker cannot be helped by a restart."""
        await self._failed.wait()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise `ConfigurationError` if a worker ended because a person has to mend something."""
        if self._failure:
            raise ConfigurationError(self._failure)

    @property
    def running(self) -> list[str]:
        """The names of the workers whose process runs at this moment."""
        return [name for name, process in self._processes.items() if process.returncode is None]

    def pid(self, name: str) -> int:
        """Return the process id of a worker that was started."""
        return self._processes[name].pid

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a running worker and return its process id; if it ends of it, it will be restarted."""
        process = self._processes[name]
        process.send_signal(how)
        return process.pid

    async def _keep(self, spec: WorkerSpec) -> None:
        failures = 0
        while True:
            begun = monotonic()
            process = self._processes[spec.name] = await self._start(spec)
            code = await process.wait()
            if code == EXIT_MISTAKE and spec.name not in self._ready:
                self._give_up(spec)
                return
            failures = 1 if monotonic() - begun > self._steady_seconds else failures + 1
            delay = min(RESTART_FIRST_SECONDS * 2 ** (failures - 1), RESTART_MOST_SECONDS)
            self._tell(f"{spec.name} {_how_it_ended(code)} (process {process.pid}); restarting it in {delay:.1f} s")
            await asyncio.sleep(delay)
            self.restarts[spec.name] += 1

    async def _start(self, spec: WorkerSpec) -> asyncio.subprocess.Process:
        arguments = ["-m", self._child, str(os.getpid()), spec.module]
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._log(spec).open("ab")) if self._logs else None
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **self._environ,
                    "TALLYSTICK_INSTANCE": str(spec.instance),
                    "TALLYSTICK_HTTP_HOST": _HOST,
                    "TALLYSTICK_HTTP_PORT": str(spec.port),
                    **spec.variables,
                },
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we then tell them
            )

    def _log(self, spec: WorkerSpec) -> Path:
        assert self._logs is not None, "only asked for when there is a directory"  # noqa: S101
        return self._logs / f"{spec.name}.log"

    def _give_up(self, spec: WorkerSpec) -> None:
        said = last_line(self._log(spec)) if self._logs else "see its last line above"
        self._failure = self._failure or f"{spec.name} cannot run: {said}"
        self._failed.set()


def _with_our_path(environ: Mapping[str, str]) -> dict[str, str]:
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), environ.get("PYTHONPATH")]))}


def _how_it_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def ask(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a GET, or 0 and why there is none."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(_HOST, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {_HOST}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
            finally:
                writer.close()
        return int(head.split(maxsplit=2)[1]), body
    except (OSError, TimeoutError, IndexError, ValueError) as error:
        return 0, f"no answer on port {port} ({type(error).__name__})"
