"""What a backup says of itself: `manifest.json`, written last. A directory without one is no backup."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final

from deploy.backup.errors import BackupError

FILE: Final = "manifest.json"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Position:
    """Where a service goes on in one partition: the next offset that it reads."""

    service: str
    cluster: str
    topic: str
    partition: int
    epoch: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One backup. `rows` are exact, by table, of the snapshot that was dumped; `files` are SHA-256 by path below the backup."""

    database: str
    taken_at: datetime
    """When the snapshot was taken, UTC: what was committed later is not in it."""
    schema_version: str
    """The newest migration that had been applied."""
    server_version: str
    dumped_with: str
    tallystick: str
    rows: Mapping[str, int]
    positions: tuple[Position, ...]
    closed_functions: tuple[str, ...]
    """Functions that PUBLIC may not call. Grants are not restored but made anew, and would leave these open."""
    files: Mapping[str, str]
    bytes: int
    """Size of the dump on disk."""

    @property
    def server_major(self) -> int:
        return int(self.server_version.partition(".")[0])

    @property
    def dumped_with_major(self) -> int:
        return int(self.dumped_with.partition(".")[0])

    def encode(self) -> str:
        """Return the manifest's text. Its last field is the SHA-256 of the rest, so that a damaged manifest is noticed as well."""
        content = {"format": FORMAT, **asdict(self), "taken_at": self.taken_at.isoformat()}
        return json.dumps({**content, "sha256": _checksum(content)}, indent=1) + "\n"

    @classmethod
    def decode(cls, text: str, *, origin: PurePath) -> Manifest:
        """Read a manifest. Raises `BackupError` that names `origin` for one that is damaged or of another format."""
        try:
            content: dict[str, Any] = json.loads(text)
            stated = content.pop("sha256")
        except (ValueError, KeyError, AttributeError):
            raise BackupError(f"{origin} is damaged: it is no manifest; take another backup") from None
        if stated != _checksum(content):
            raise BackupError(f"{origin} is damaged: it is not what was written (checksum); take another backup")
        if (form := content.pop("format")) != FORMAT:
            raise BackupError(f"{origin} has format {form}, this release reads {FORMAT}: use the release that made it")
        content["taken_at"] = datetime.fromisoformat(content["taken_at"])
        content["positions"] = tuple(Position(**position) for position in content["positions"])
        content["closed_functions"] = tuple(content["closed_functions"])
        return cls(**content)


def differences(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Return what a person should read of two counts of rows by table: one line for each table that differs."""
    return [
        f"{table}: {_count(before.get(table))} in the backup, {_count(after.get(table))} restored"
        for table in sorted(before.keys() | after.keys())
        if before.get(table) != after.get(table)
    ]


def _count(rows: int | None) -> str:
    return "no such table" if rows is None else f"{rows:,} rows"


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
