"""Failpoints: named moments at which a worker of the harness dies by its own SIGKILL when it is told to.

The services contain none of this: the harness starts its workers through `services.cli.chaos.child`, which wraps the functions at whose
edges the moments lie. So nothing can be switched on by accident where workers are started in any other way. A moment is chosen by a file:
`<directory>/<worker>` holds its name; who passes there removes the file and is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from shared.errors import ConfigurationError

DIRECTORY: Final = "TALLYSTICK_FAILPOINTS"
TOKEN: Final = "TALLYSTICK_FAILPOINTS_TOKEN"  # noqa: S105 – the name of a variable
TOKEN_FILE: Final = "token"  # noqa: S105

EDGES: Final = ("lock", "insert", "position", "commit", "publish", "kafka_commit")
POINTS: Final[Sequence[str]] = tuple(f"{side}_{edge}" for edge in EDGES for side in ("before", "after"))
_INSERTS: Final = {
    "ingest": ("services.ingest.store:UsageLog", "insert"),
    "aggregator": ("services.aggregator.store", "add_summaries"),
    "billing": ("services.billing.rating.store", "insert_rated"),
}
_POSITIONS: Final = {
    "ingest": "services.ingest.store",
    "aggregator": "services.aggregator.store",
    "billing": "services.billing.rating.store",
}

_in_batch: ContextVar[bool] = ContextVar("in_batch", default=False)


def choose(directory: Path, worker: str, point: str) -> None:
    """Let `worker` die the next time that it passes `point`."""
    aside = directory / f"{worker}.new"
    aside.write_text(point, encoding="ascii")
    aside.replace(directory / worker)


def passed(directory: Path, worker: str) -> bool:
    """Whether the worker has come by the point that was chosen for it."""
    return not (directory / worker).exists()


def withdraw(directory: Path, worker: str) -> None:
    """Let the worker live after all."""
    (directory / worker).unlink(missing_ok=True)


class Failpoints:
    """The failpoints of this process."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def come_by(self, point: str) -> None:
        """Die here if this is the moment."""
        try:
            chosen = self._file.read_text(encoding="ascii")
        except FileNotFoundError:
            return
        if chosen == point:
            with contextlib.suppress(FileNotFoundError):
                self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self, service: str) -> None:
        """Wrap the edges of one service's commit."""
        self._wrap("shared.positions:Positions", "lock", "lock", within=True)
        self._wrap(*_INSERTS[service], "insert")
        self._wrap(_POSITIONS[service], "advance_position", "position")
        self._wrap("asyncpg.transaction:Transaction", "commit", "commit", batches_only=True)
        self._wrap("shared.kafka:OutboxProducer", "__call__", "publish")
        self._wrap("aiokafka:AIOKafkaConsumer", "commit", "kafka_commit")

    def _wrap(self, place: str, name: str, edge: str, *, within: bool = False, batches_only: bool = False) -> None:
        """Come by before and after a function. `within` begins a batch's transaction; `batches_only` heeds only its end."""
        module, _, attribute = place.partition(":")
        owner: Any = import_module(module)
        owner = getattr(owner, attribute) if attribute else owner
        original: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def wrapped(*given: Any, **named: Any) -> Any:
            if batches_only and (not _in_batch.get() or given[0]._nested):
                return await original(*given, **named)
            self.come_by(f"before_{edge}")
            result = await original(*given, **named)
            self.come_by(f"after_{edge}")
            if within or batches_only:
                _in_batch.set(within)
            return result

        setattr(owner, name, wrapped)


def of_this_process(environ: dict[str, str], worker: str) -> Failpoints:
    """Return the failpoints of a worker. Raises `ConfigurationError` unless the harness itself has started it, with its token."""
    directory, token = environ.get(DIRECTORY), environ.get(TOKEN)
    if not directory or not token:
        raise ConfigurationError("failpoints are for workers that 'tallystick chaos' starts")
    try:
        known = (Path(directory) / TOKEN_FILE).read_text(encoding="ascii")
    except FileNotFoundError:
        known = ""
    if known != token:
        raise ConfigurationError(f"{TOKEN} is not the token of the harness in {directory}")
    return Failpoints(Path(directory) / worker)
