"""Failpoints: named moments at which a process of the harness does to itself what it was told to: die, lose its connection, be slow.

The services contain none of this: the harness starts them through `services.cli.chaos.child`, which wraps the database
driver and the Kafka client of that process. So nothing can be switched on by accident where workers are started in any
other way. What is to happen is said by a file: `<directory>/<process>` holds "point action"; who passes there removes the
file first. A second file, `<process>.clock`, holds seconds by which the process' clock is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from services.cli.chaos.points import edge_of
from shared.errors import ConfigurationError

DIRECTORY: Final = "TALLYSTICK_FAILPOINTS"
TOKEN: Final = "TALLYSTICK_FAILPOINTS_TOKEN"  # noqa: S105 – the name of a variable
TOKEN_FILE: Final = "token"  # noqa: S105
LOCK_TIMEOUT: Final = "1500ms"
"""Of the harness' workers; 30 s in production. Waiting for a lock so long would be a test of patience."""

DIE, CUT, FAIL, STALL, COORDINATOR = "die", "cut", "fail", "stall", "coordinator"
STALL_SECONDS: Final = 1.0
POLL: Final = "poll"
"""The point at which a consumer fetches: where a coordinator is lost."""


def choose(directory: Path, process: str, point: str, action: str) -> None:
    """Let `process` do `action` to itself the next time that it passes `point`."""
    _write(directory, process, f"{point} {action}")


def passed(directory: Path, process: str) -> bool:
    """Whether the process has come by the point that was chosen for it."""
    return not (directory / process).exists()


def withdraw(directory: Path, process: str) -> None:
    """Let the process be."""
    (directory / process).unlink(missing_ok=True)


def set_clock(directory: Path, process: str, off: timedelta) -> None:
    """Put the clock of `process` wrong by `off`, or right again; it stays so when the process is started anew."""
    _write(directory, f"{process}.clock", str(off.total_seconds()))


def _write(directory: Path, name: str, text: str) -> None:
    aside = directory / f".{name}.new"
    aside.write_text(text, encoding="ascii")
    aside.replace(directory / name)


class Failpoints:
    """The failpoints of this process, which is one of `service`."""

    def __init__(self, file: Path, service: str) -> None:
        self._file, self._service = file, service
        self._place = str(file)
        self._clock = file.with_name(f"{file.name}.clock")

    def install(self) -> None:
        """Wrap what talks to Postgres and Kafka, and the clock."""
        import asyncpg  # noqa: PLC0415 – after the fork of the zygote these are there already
        from aiokafka import AIOKafkaConsumer  # noqa: PLC0415
        from asyncpg.transaction import Transaction  # noqa: PLC0415

        from shared.clock import SystemClock  # noqa: PLC0415
        from shared.kafka import OutboxProducer  # noqa: PLC0415

        for name in ("execute", "fetch", "fetchrow", "fetchval"):
            self._wrap(asyncpg.Connection, name, lambda given: edge_of(self._service, given[1]), lambda given: given[0])
        self._wrap(asyncpg.Connection, "copy_records_to_table", self._copied, lambda given: given[0])
        self._wrap(
            Transaction, "commit", lambda given: None if given[0]._nested else "commit", lambda g: g[0]._connection
        )
        self._wrap(OutboxProducer, "__call__", lambda _: "publish", None)
        self._wrap(AIOKafkaConsumer, "commit", lambda _: "kafka_commit", None)
        self._wrap(AIOKafkaConsumer, "getmany", lambda _: POLL, lambda given: given[0])
        self._shift(SystemClock)
        _shorten_lock_timeout(asyncpg)

    def _copied(self, given: tuple[Any, ...]) -> str | None:
        return edge_of(self._service, f"COPY {given[1]}")

    def _wrap(
        self,
        owner: Any,
        name: str,
        edge_at: Callable[[tuple[Any, ...]], str | None],
        client_of: Callable[[tuple[Any, ...]], Any] | None,
    ) -> None:
        original: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def wrapped(*given: Any, **named: Any) -> Any:
            edge = edge_at(given)
            if edge is None or not os.path.exists(self._place):  # noqa: PTH110, ASYNC240 – quick enough
                return await original(*given, **named)
            client = client_of(given) if client_of else None
            await self._come_by(f"before_{edge}", client)
            result = await original(*given, **named)
            await self._come_by(f"after_{edge}", client)
            return result

        setattr(owner, name, wrapped)

    async def _come_by(self, point: str, client: Any) -> None:
        """Do here what was chosen, if this is the point."""
        try:
            chosen, _, action = self._file.read_text(encoding="ascii").partition(" ")
        except FileNotFoundError:
            return
        if chosen != point:
            return
        with contextlib.suppress(FileNotFoundError):
            self._file.unlink()
        await _act(action, client)

    def _shift(self, clock: Any) -> None:
        right = clock.now

        def now(itself: Any) -> Any:
            try:
                return right(itself) + timedelta(seconds=float(self._clock.read_text(encoding="ascii")))
            except FileNotFoundError:
                return right(itself)

        clock.now = now


async def _act(action: str, client: Any) -> None:
    match action:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "cut":  # as when the network fails: nobody says goodbye
            client._transport.abort()
            raise ConnectionResetError("cut by the harness")
        case "fail":
            from aiokafka.errors import RequestTimedOutError  # noqa: PLC0415

            raise RequestTimedOutError("refused by the harness")
        case "coordinator":  # what the client does when the broker answers NOT_COORDINATOR
            client._coordinator.coordinator_dead()
        case "stall":
            await asyncio.sleep(STALL_SECONDS)
        case _:
            raise ConfigurationError(f"no such action at a failpoint: {action}")


def _shorten_lock_timeout(asyncpg: Any) -> None:
    create_pool = asyncpg.create_pool

    def shorter(*given: Any, **named: Any) -> Any:
        named["server_settings"] = {**named.get("server_settings", {}), "lock_timeout": LOCK_TIMEOUT}
        return create_pool(*given, **named)

    asyncpg.create_pool = shorter


def of_this_process(environ: dict[str, str], process: str, service: str) -> Failpoints:
    """Return the failpoints of a process. Raises `ConfigurationError` unless the harness itself has started it, with its token."""
    directory, token = environ.get(DIRECTORY), environ.get(TOKEN)
    if not directory or not token:
        raise ConfigurationError("failpoints are for workers that 'tallystick chaos' starts")
    try:
        known = (Path(directory) / TOKEN_FILE).read_text(encoding="ascii")
    except FileNotFoundError:
        known = ""
    if known != token:
        raise ConfigurationError(f"{TOKEN} is not the token of the harness in {directory}")
    return Failpoints(Path(directory) / process, service)
