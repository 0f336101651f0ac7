"""`python -m services.cli.chaos.zygote PARENT`: starts the harness' processes as forks of itself, with all modules imported.

A worker then starts in some tenths of a second instead of some seconds, so that it can be killed thousands of times. Reads
one JSON object a line from stdin: {"id", "module", "process", "service", "environ", "log"}; writes {"id", "pid"} when it has
forked and {"pid", "code"} when that process has ended, with the code of `subprocess`: negative for a signal.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import selectors
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
PRELOADED = (
    "services.ingest.app", "services.aggregator.app", "services.billing.app", "services.billing.invoices.closing",
    "services.cli.chaos.closing", "services.cli.chaos.failpoints", "faststream.asgi", "uvicorn",
)  # fmt: skip


def main() -> None:
    """Serve until stdin ends."""
    _end_with(int(sys.argv[1]), signal.SIGKILL)
    for module in PRELOADED:
        import_module(module)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the harness decides when we end
    _say({"ready": os.getpid()})
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        ready.register(wake, selectors.EVENT_READ)
        rest = b""
        while True:
            for key, _ in ready.select():
                got = os.read(int(key.fd), 65_536)
                if key.fd == wake:
                    _collect()
                elif not got:
                    return
                else:
                    *lines, rest = (rest + got).split(b"\n")
                    for line in lines:
                        _start(json.loads(line), (wake, woken))


def _start(wanted: Mapping[str, Any], pipe: tuple[int, int]) -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(wanted, parent, pipe)
    _say({"id": wanted["id"], "pid": pid})


def _become(wanted: Mapping[str, Any], parent: int, pipe: tuple[int, int]) -> NoReturn:
    """Turn this fork into the process that is wanted."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        _end_with(parent, signal.SIGTERM)
        for descriptor in pipe:
            os.close(descriptor)
        _redirect(wanted["log"])
        os.environ.clear()
        os.environ.update(wanted["environ"])
        from services.cli.chaos.failpoints import of_this_process  # noqa: PLC0415

        of_this_process(dict(os.environ), wanted["process"], wanted["service"]).install()
        sys.argv = [wanted["module"], *wanted.get("arguments", ())]
        runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _collect() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(what: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _end_with(parent: int, how: signal.Signals) -> None:
    """Get the signal when the parent is gone (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
