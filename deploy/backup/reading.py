"""Finding backups, and making sure that one is what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from deploy.backup.errors import BackupError
from deploy.backup.manifest import FILE, Manifest

PREFIX: Final = "tallystick-"
PARTIAL: Final = ".partial"
DUMP: Final = "dump"


def find_backups(directory: Path) -> list[tuple[Path, Manifest]]:
    """Return the whole backups below a directory, oldest first, without reading their dumps. Raises `BackupError` for a damaged manifest."""
    found = [
        (path, _manifest(path))
        for path in directory.glob(f"{PREFIX}*")
        if path.suffix != PARTIAL and (path / FILE).exists()
    ]
    return sorted(found, key=lambda backup: (backup[1].taken_at, backup[0].name))


def read_backup(path: Path) -> Manifest:
    """Read a backup's manifest and check every byte of its dump. Raises `BackupError` that names the first file that is not as it was."""
    if path.suffix == PARTIAL:
        raise BackupError(f"{path} is a backup that was interrupted: remove it, and use a whole one")
    manifest = _manifest(path)
    present = checksums(path / DUMP)
    for name, wanted in manifest.files.items():
        if name not in present:
            raise BackupError(f"{path / DUMP / name} is missing: the backup is damaged, use another copy of it")
        if present[name] != wanted:
            raise BackupError(
                f"{path / DUMP / name} is not what was written (checksum): the backup is damaged, use another copy of it"
            )
    return manifest


def checksums(dump: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a dump, by name."""
    found = {}
    for file in sorted(dump.iterdir()) if dump.is_dir() else ():
        with file.open("rb") as content:
            found[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def _manifest(path: Path) -> Manifest:
    try:
        text = (path / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BackupError(f"{path} is no backup: it has no {FILE}, which is written last") from None
    except (UnicodeDecodeError, NotADirectoryError):
        raise BackupError(f"{path / FILE} is damaged: it is no manifest; take another backup") from None
    return Manifest.decode(text, origin=path / FILE)
