"""What can go wrong with a backup, told to a person."""

from __future__ import annotations

from shared.errors import TallystickError


class BackupError(TallystickError):
    """A backup could not be taken, is damaged, or does not fit the database it should go into. Says what to do."""
