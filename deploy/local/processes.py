"""Child processes that end with us, whatever ends us, and are ended by their process id."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from deploy.local.accounts import Account
from deploy.local.errors import LocalStackError, last_line

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
_libc = ctypes.CDLL(None, use_errno=True)


async def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    when_parent_dies: signal.Signals,
    account: Account | None = None,
    own_group: bool = False,
) -> asyncio.subprocess.Process:
    """Start a program that writes to `log` and gets `when_parent_dies` if this process is killed.

    Only to be called in the main thread: the kernel sends that signal when the *thread* that forked ends. Raises `LocalStackError` when the
    program cannot be executed.
    """
    parent = os.getpid()

    def prepare_child() -> None:
        if account is not None:
            account.become()
        if sys.platform == "linux":  # after become(): a change of account clears it
            _libc.prctl(_PR_SET_PDEATHSIG, int(when_parent_dies), 0, 0, 0)
            if os.getppid() != parent:  # the parent died before the line above
                os._exit(1)

    try:
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=prepare_child,
                process_group=0 if own_group else None,
            )
    except subprocess.SubprocessError as error:  # all that Python says when prepare_child fails
        raise LocalStackError(
            f"root is not allowed here to run {argv[0]} as the user {account}: "
            "use a checkout (and TALLYSTICK_LOCAL_DIR) that other users can reach, such as below /srv, or run as an ordinary user"
        ) from error


async def run(argv: Sequence[str], *, log: Path, what: str, account: Account | None = None) -> None:
    """Run a program to its end, or when cancelled end it with all that it started. Raises `LocalStackError` when it fails."""
    process = await spawn(argv, log=log, when_parent_dies=signal.SIGKILL, account=account, own_group=True)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        await _kill_group(process)
        raise
    if code != 0:
        raise LocalStackError(f"{what} failed with exit code {code}: {last_line(log)} (all of it in {log})")


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Return when nobody of the group is left to write files, or after a second: someone may forget to collect a dead process."""
    with contextlib.suppress(ProcessLookupError):
        for _ in range(int(1 / _POLL_SECONDS)):
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.sleep(_POLL_SECONDS)


async def wait_until(
    is_ready: Callable[[], Awaitable[bool]],
    process: asyncio.subprocess.Process,
    *,
    seconds: float,
    log: Path,
    what: str,
) -> None:
    """Poll until the server says that it is ready. Raises `LocalStackError` when its process ends or time runs out first."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await is_ready():
        if process.returncode is not None:
            raise LocalStackError(f"{what} ended while starting: {last_line(log)} (all of it in {log})")
        if asyncio.get_running_loop().time() > deadline:
            raise LocalStackError(f"{what} was not ready after {seconds:.0f} s: {last_line(log)} (all of it in {log})")
        await asyncio.sleep(_POLL_SECONDS)


async def stop(process: asyncio.subprocess.Process, how: signal.Signals, *, seconds: float = 30) -> None:
    """Ask the process to end, insist after `seconds`, and return when it has ended."""
    if process.returncode is not None:
        return
    process.send_signal(how)
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
