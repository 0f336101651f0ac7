"""What the two servers of a stack have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

Say = Callable[[str], None]
"""Takes one line about what goes on, for a person who waits."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers: where it is, what it is, and where it runs."""

    name: str
    """`kafka` or `postgres`."""
    address: str
    """What a client needs: bootstrap servers, or a database URL."""
    description: str
    """What was chosen, in one line."""
    log: str | None = None
    """Its log file; None for a server that is not ours."""
    pid: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Server:
        return cls(**value)


class LocalServer(Protocol):
    """A server that the supervisor starts and stops."""

    def prepare(self, say: Say) -> None:
        """Find programs and download what is missing. May block; starts no process that stays."""

    async def start(self, say: Say) -> Server:
        """Return when the server answers. Raises `LocalStackError`; the caller then calls `stop`."""

    async def stop(self, *, gracefully: bool) -> None:
        """End the process if there is one; not gracefully when its data are thrown away anyway."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a stack is started with; crosses to the supervisor as JSON."""

    directory: Path
    servers: tuple[str, ...]
    durable: bool = True
    """False turns fsync off: several times faster commits, data lost if the machine (not merely the server) crashes."""
    throw_away: bool = False
    """Remove the directory when the stack ends."""
    postgres_settings: Mapping[str, str] | None = None
    """Additional `postgresql.conf` settings."""
    kafka_properties: Mapping[str, str] | None = None
    """Additional `server.properties`; a listener is added to those that are there."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "directory": str(self.directory)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Options:
        return cls(**{**value, "directory": Path(value["directory"]), "servers": tuple(value["servers"])})
