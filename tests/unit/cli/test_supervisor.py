"""The supervisor keeps workers running and leaves none behind."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from deploy.local import ports
from services.cli.supervisor import Supervisor, WorkerSpec
from shared.errors import ConfigurationError, ServiceUnavailable

WORKER = """
import http.server, os, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: (print("stopped gracefully", flush=True), os._exit(0)))
print("started", os.getpid(), flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["TALLYSTICK_HTTP_PORT"])), Answer).serve_forever()
"""
MISTAKEN = "import sys; print('tallystick: DATABASE_URL is missing', file=sys.stderr); sys.exit(2)"

SUPERVISE = """
import asyncio, os, sys
from pathlib import Path
from services.cli.supervisor import Supervisor, WorkerSpec
async def main():
    async with Supervisor([WorkerSpec("steady", 0, int(sys.argv[1]))], os.environ, logs=Path(sys.argv[2]), tell=print) as workers:
        await workers.wait_until_ready(20)
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which the modules `steady` and `mistaken` can be run."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "steady.py").write_text(WORKER)
    (modules / "mistaken.py").write_text(MISTAKEN)
    return {**os.environ, "PYTHONPATH": str(modules)}


async def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + 20
    while not holds():
        assert monotonic() < deadline, f"not so after 20 s: {what}"
        await asyncio.sleep(0.02)


def started(log: Path) -> list[int]:
    """The process ids that a worker's log names."""
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("started")]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # dead, and only not yet reaped by whoever inherited it


async def test_a_killed_worker_is_restarted_and_all_are_stopped_gracefully(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    specs = [WorkerSpec("steady", 0, ports.choose()), WorkerSpec("steady", 1, ports.choose())]
    said: list[str] = []
    log = tmp_path / "logs" / "steady-0.log"
    async with Supervisor(specs, environ, logs=tmp_path / "logs", tell=said.append) as workers:
        await workers.wait_until_ready(20)
        killed = workers.kill("steady-0")
        await eventually(lambda: len(started(log)) == 2, "the worker was started again")
        await workers.wait_until_ready(20)

    assert workers.restarts == {"steady-0": 1}
    assert said == [f"steady-0 was ended by SIGKILL (process {killed}); restarting it in 0.2 s"]
    assert [path.read_text().count("stopped gracefully") for path in sorted(log.parent.iterdir())] == [1, 1]
    assert not any(is_alive(pid) for path in log.parent.iterdir() for pid in started(path))


async def test_a_mistake_of_the_operator_is_told_instead_of_being_repeated(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    async with Supervisor([WorkerSpec("mistaken", 0, ports.choose())], environ, logs=tmp_path, tell=print) as workers:
        with pytest.raises(ConfigurationError, match="mistaken-0 cannot run: tallystick: DATABASE_URL is missing"):
            await workers.wait_until_ready(20)
    assert not workers.restarts


async def test_a_worker_that_does_not_answer_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    elsewhere = WorkerSpec("steady", 0, ports.choose())
    async with Supervisor([elsewhere], {**environ, "PYTHONPATH": ""}, logs=tmp_path, tell=lambda _: None) as workers:
        with pytest.raises(ServiceUnavailable, match="steady-0: no answer on port"):
            await workers.wait_until_ready(0.5)


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path, environ: dict[str, str]) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISE, str(ports.choose()), str(tmp_path)),
        env={**environ, "PYTHONPATH": os.pathsep.join([environ["PYTHONPATH"], str(Path.cwd())])},
        stdout=asyncio.subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    assert await supervisor.stdout.readline() == b"ready\n"
    (pid,) = started(tmp_path / "steady-0.log")
    supervisor.kill()
    await supervisor.wait()
    await eventually(lambda: not is_alive(pid), "the worker ended with its supervisor")
