"""The real LiteLLM proxy, with mocks of its own for models. `make test-litellm` installs it into .venv-litellm, as its pins are not ours."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from deploy.local import ports

ROOT: Final = Path(__file__).parents[2]
STARTS_WITHIN_SECONDS: Final = 180.0
KEY: Final = "sk-test"
CONFIGURATION: Final = ROOT / "tests" / "litellm" / "config.yaml"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got. `complete` tells whether it got all of it: a stream may break off."""

    status: int
    body: bytes
    complete: bool


class Proxy:
    """A LiteLLM proxy in a process of its own; address and settings stay the same when it is started again."""

    def __init__(self, program: str, log: Path, settings: Mapping[str, str]) -> None:
        self.port = ports.choose()
        self.log = log
        self._program = program
        self._environ = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("TALLYSTICK_", "KAFKA_", "DATABASE_"))
            },
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return when it answers."""
        command = [self._program, "--config", str(CONFIGURATION), "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environ, stdout=log, stderr=log, cwd=self.log.parent)
        until = time.monotonic() + STARTS_WITHIN_SECONDS
        while time.monotonic() < until:
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            try:
                if self.ask("GET", "/health/liveliness").status == 200:
                    return
            except OSError:
                self._process_ends(0.1)
        pytest.fail(f"the proxy does not answer: {self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as an operator does."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)

    def state(self) -> str:
        """What to tell of it when it does not answer."""
        code = None if self._process is None else self._process.poll()
        end = self.log.read_text(errors="replace")[-3000:]
        return f"the proxy {'runs' if code is None else f'has ended with {code}'}; the end of its log: {end}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask it, as a client does. Raises `OSError` if it does not answer at all."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            try:
                content = response.read()
            except http.client.IncompleteRead as cut:
                return Answer(response.status, cut.partial, complete=False)
            streamed = response.headers.get("content-type", "").startswith("text/event-stream")
            return Answer(
                response.status, content, not streamed or b"data: [DONE]" in content or b"message_stop" in content
            )
        except http.client.HTTPException as broken:
            raise OSError(str(broken)) from broken
        finally:
            connection.close()

    def _process_ends(self, seconds: float) -> None:
        """Wait so long, or until the process ends."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return


MakeProxy: TypeAlias = Callable[..., Proxy]


@pytest.fixture
def make_proxy(tmp_path: Path) -> Iterator[MakeProxy]:
    """Start a proxy with these settings of the plug-in. Fails, and never skips, where LiteLLM is not installed."""
    program = os.environ.get("LITELLM")
    if not program:
        pytest.fail("there is no LiteLLM: run these tests by `make test-litellm`, which installs it")
    started: list[Proxy] = []

    def make(**settings: str) -> Proxy:
        proxy = Proxy(
            program,
            tmp_path / f"proxy-{len(started)}.log",
            {"TALLYSTICK_LITELLM_SPOOL": str(tmp_path / "spool"), **settings},
        )
        started.append(proxy)
        proxy.start()
        return proxy

    yield make
    for proxy in started:
        proxy.stop()
