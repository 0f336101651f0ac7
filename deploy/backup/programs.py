"""PostgreSQL's own programs for dumps: found, and run so that a password never shows in the list of processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from deploy.backup.errors import BackupError
from deploy.local.errors import LocalStackError
from deploy.local.postgres_programs import ENVIRONMENT_NAME, find_programs

DEBIAN: Final = Path("/usr/lib/postgresql")
STOP_SECONDS: Final = 10.0
_SAID_LINES: Final = 5

Hear = Callable[[str], None]


def find(program: str, *, at_least: int, environ: Mapping[str, str]) -> Path:
    """Return a `pg_dump` or `pg_restore` whose major version is `at_least`: an older one refuses the server.

    That in TALLYSTICK_POSTGRES_BIN, if it fits; else the one of the lowest version, as a newer one than needed writes what an older server
    does not understand: in PATH, where Debian has several versions, or in the wheel of the local stack. Raises `BackupError`.
    """
    majors = {candidate: int(version(candidate).partition(".")[0]) for candidate in _candidates(program, environ)}
    if fitting := [candidate for candidate, major in majors.items() if major >= at_least]:
        named = Path(environ.get(ENVIRONMENT_NAME, ""), program)
        return named if named in fitting else min(fitting, key=majors.__getitem__)
    found = f" ({', '.join(f'{candidate} is {major}' for candidate, major in majors.items())})" if majors else ""
    raise BackupError(
        f"no {program} of PostgreSQL {at_least} or newer is here{found}: install postgresql-client-{at_least}, "
        f"or set {ENVIRONMENT_NAME} to the directory of one"
    )


def _candidates(program: str, environ: Mapping[str, str]) -> Iterator[Path]:
    named = environ.get(ENVIRONMENT_NAME, "embedded")
    if named != "embedded":
        yield from _existing(Path(named, program))
    if on_path := shutil.which(program, path=environ.get("PATH")):
        yield Path(on_path)
    yield from sorted(DEBIAN.glob(f"*/bin/{program}"))
    with contextlib.suppress(LocalStackError):  # without the wheel there is none in it
        yield from sorted(find_programs({}).parents[1].glob(f"pginstall*/bin/{program}"))


def _existing(path: Path) -> Iterator[Path]:
    if path.exists():
        yield path


def version(program: Path) -> str:
    """What the program says, such as `18.4`. Raises `BackupError`."""
    try:
        said = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BackupError(f"{program} does not run ({error}): reinstall it") from error
    match = re.search(r"\d+(\.\d+)?", said)
    if match is None:
        raise BackupError(f"{program} does not say its version but '{said.strip()}': reinstall it")
    return match.group()


def address(url: str) -> tuple[str, dict[str, str]]:
    """Split a database's URL into what may be seen by everybody on the machine, and the environment with the password."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    hidden = dict(query).get("password") or (unquote(parts.password) if parts.password else None)
    host = parts.netloc.rpartition("@")[2]
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    shown = parts._replace(
        netloc=f"{user}@{host}" if user else host,
        query=urlencode([(name, value) for name, value in query if name != "password"]),
    )
    return shown.geturl(), {"PGPASSWORD": hidden} if hidden else {}


async def run(argv: Sequence[str | Path], secret: Mapping[str, str], hear: Hear) -> None:
    """Run a program to its end and let `hear` have each line that it says. Ends it when we are cancelled or fail.

    Raises `BackupError` with its last words.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **secret, "LC_ALL": "C"},
        start_new_session=True,  # a Ctrl-C in the terminal is for us; we then tell it
    )
    assert process.stderr is not None, "asked for above"  # noqa: S101
    said: deque[str] = deque(maxlen=_SAID_LINES)
    try:
        async for line in process.stderr:
            text = line.decode(errors="replace").strip()
            said.append(text)
            hear(text)
        code = await process.wait()
    finally:
        await _end(process)
    if code:
        errors = [text for text in said if "error:" in text] or list(said)
        raise BackupError(f"{Path(argv[0]).name} failed: {' – '.join(errors) or f'exit code {code}'}")


def plain_name(table: str) -> str:
    """Return the name of a table as a person says it, of how the programs do: `"public.usage_logs"`."""
    return table.strip('"').rpartition(".")[2]


async def output(argv: Sequence[str | Path]) -> str:
    """Run a program that only reads a file, and return what it prints. Raises `BackupError`."""
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    said, complaint = await process.communicate()
    if process.returncode:
        raise BackupError(f"{Path(argv[0]).name} failed: {complaint.decode(errors='replace').strip()}")
    return said.decode()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
