"""An embedded PostgreSQL: the server of a Python wheel, or of any installation on this machine, on a port of its own."""

from __future__ import annotations

import asyncio
import locale
import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local import ports, processes
from deploy.local.accounts import account_for_server
from deploy.local.directory import StackDirectory
from deploy.local.errors import LocalStackError
from deploy.local.postgres_programs import ENVIRONMENT_NAME, find_programs, version_of
from deploy.local.server import Options, Say, Server

NAME = "tallystick"  # of the superuser and of the database
_START_SECONDS = 60
_PORT_ATTEMPTS = 3
_READY_LINE = 7  # of postmaster.pid, counted from 0: the state in which the server says it is
_SETTINGS = {
    "listen_addresses": ports.HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres:
    """The PostgreSQL of one stack directory. Reachable over TCP by password, since everyone on the machine may reach the port."""

    def __init__(self, directory: StackDirectory, options: Options, environ: Mapping[str, str]) -> None:
        self._directory = directory
        self._options = options
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None

    def prepare(self, say: Say) -> None:
        self._programs = find_programs(self._environ)
        self._version = version_of(self._programs)
        self._account = account_for_server([self._programs / "postgres", self._directory.postgres_data])
        self._refuse_data_of_another_version()
        account = f", as the user {self._account}" if self._account else ""
        self._description = (
            f"PostgreSQL {self._version} ({self._programs}){account}, data in {self._directory.postgres_data}"
        )
        say(f"Postgres: {self._description}")

    async def start(self, say: Say) -> Server:
        if not self._directory.postgres_data.exists():
            await self._create_data()
        remembered = self._directory.read(self._directory.remembered)
        port, process = await self._listen(remembered.get("postgres_port"))
        self._directory.remember(postgres_port=port)
        url = f"postgresql://{NAME}:{self._password(remembered)}@{ports.HOST}:{port}"
        await _create_database(url)
        say(f"Postgres: ready on {ports.HOST}:{port}")
        return Server("postgres", f"{url}/{NAME}", self._description, str(self._directory.postgres_log), process.pid)

    def _password(self, remembered: Mapping[str, Any]) -> str:
        try:
            return str(remembered["postgres_password"])
        except KeyError:
            raise LocalStackError(
                f"{self._directory.remembered}, which had the password of the database beside it, is gone: "
                "throw the data away with `tallystick local down --purge`"
            ) from None

    async def stop(self, *, gracefully: bool) -> None:
        if self._process is not None:
            # SIGINT is "fast shutdown", SIGQUIT leaves without writing anything.
            await processes.stop(self._process, signal.SIGINT if gracefully else signal.SIGQUIT)

    def _refuse_data_of_another_version(self) -> None:
        try:
            made_by = (self._directory.postgres_data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return
        if made_by != self._version.partition(".")[0]:
            raise LocalStackError(
                f"the data in {self._directory.postgres_data} are of PostgreSQL {made_by}, the server is {self._version}: "
                f"set {ENVIRONMENT_NAME} as it was, or throw the data away with `tallystick local down --purge`"
            )

    async def _create_data(self) -> None:
        """Run initdb aside and rename, so that an interrupted run leaves no half-made data directory that looks whole."""
        aside = self._directory.postgres_data.with_suffix(".new")
        self._directory.remove(aside)
        aside.mkdir(mode=0o700)
        password = secrets.token_urlsafe(18)
        password_file = aside.with_suffix(".password")
        password_file.touch(mode=0o600)
        password_file.write_text(password, encoding="ascii")
        if self._account:
            os.chown(aside, self._account.uid, self._account.gid)
            os.chown(password_file, self._account.uid, self._account.gid)
        options = ["-D", str(aside), "-U", NAME, f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8"]
        options += [f"--locale={_locale()}", *([] if self._options.durable else ["--no-sync"])]
        try:
            await processes.run(
                [str(self._programs / "initdb"), *options],
                log=self._directory.postgres_log,
                what="initdb",
                account=self._account,
            )
        finally:
            password_file.unlink()
        self._directory.remember(postgres_password=password)
        aside.rename(self._directory.postgres_data)

    async def _listen(self, remembered: int | None) -> tuple[int, asyncio.subprocess.Process]:
        """Start the server on the remembered port or on another free one; returns the port and the process."""
        refused: set[int] = set()
        while True:
            port = ports.choose(remembered, taken=frozenset(refused))
            try:
                process = await self._start_on(port)
            except LocalStackError:
                refused.add(port)
                if len(refused) == _PORT_ATTEMPTS or "could not bind" not in _tail(self._directory.postgres_log):
                    raise
            else:
                return port, process

    async def _start_on(self, port: int) -> asyncio.subprocess.Process:
        settings = (
            _SETTINGS | ({} if self._options.durable else _NOT_DURABLE) | dict(self._options.postgres_settings or {})
        )
        argv = [str(self._programs / "postgres"), "-D", str(self._directory.postgres_data), "-p", str(port)]
        argv += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = self._directory.postgres_log
        self._process = process = await processes.spawn(
            argv, log=log, when_parent_dies=signal.SIGINT, account=self._account
        )

        async def says_ready() -> bool:  # what `pg_ctl --wait` looks at
            try:
                lines = (self._directory.postgres_data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            except FileNotFoundError:
                return False
            return len(lines) > _READY_LINE and lines[0] == str(process.pid) and lines[_READY_LINE].strip() == "ready"

        await processes.wait_until(says_ready, process, seconds=_START_SECONDS, log=log, what="Postgres")
        return process


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(f"{url}/postgres", timeout=10)
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", NAME):
            await connection.execute(f'CREATE DATABASE "{NAME}"')
    finally:
        await connection.close()


def _locale() -> str:
    """Unicode letters without a language's sorting rules, where the machine knows that locale."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "C"
    locale.setlocale(locale.LC_CTYPE, before)
    return "C.UTF-8"


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]
