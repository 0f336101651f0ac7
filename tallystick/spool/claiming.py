"""Spools of several processes beside each other, which share a setting and cannot share a directory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from tallystick.spool.files import Locked
from tallystick.spool.spool import DEFAULT_LIMITS, Limits, Spool


def claim(parent: Path | str, limits: Limits = DEFAULT_LIMITS, on_full: Callable[[int], None] | None = None) -> Spool:
    """Open the spool in the first subdirectory of `parent` that no process has, with what dead processes have left in the others."""
    for number in count():
        with suppress(Locked):
            spool = Spool(Path(parent) / str(number), limits, on_full)
            adopt_siblings(spool)
            return spool
    raise AssertionError  # there are more numbers than processes


def adopt_siblings(spool: Spool) -> int:
    """Take over what dead processes have left in the directories beside this spool's; return how many segments."""
    adopted = 0
    for sibling in sorted(spool.directory.parent.iterdir()):
        if sibling.name.isdecimal() and sibling != spool.directory:
            with suppress(Locked):
                adopted += spool.adopt(sibling)
    return adopted
