"""Backups of the database: taken in one snapshot, with a manifest of what is in it; restored only where nothing is, and proved afterwards.

The dump is `pg_dump`'s, in directory format. What is ours is the manifest (`manifest.py`): checksums of every file, row counts of every table
and the positions in Kafka, all of the very snapshot that was dumped.
"""

from deploy.backup.errors import BackupError
from deploy.backup.manifest import Manifest
from deploy.backup.reading import find_backups, read_backup
from deploy.backup.restoring import restore, scratch_database
from deploy.backup.taking import take

__all__ = ["BackupError", "Manifest", "find_backups", "read_backup", "restore", "scratch_database", "take"]
