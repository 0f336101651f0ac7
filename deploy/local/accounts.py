"""Under which account of the operating system a server runs: PostgreSQL refuses to run as root.

When root starts it, the server runs as another existing account. If files that it needs lie behind a directory that is closed to others
(a checkout in /root), it keeps one capability, to read past closed directories, rather than that directory being opened for everyone.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PREFERRED = ("postgres", "nobody")

_PR_SET_SECUREBITS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 28, 47, 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, slots=True)
class Account:
    """An account to run as, and whether it must be let through closed directories."""

    name: str
    uid: int
    gid: int
    through_closed_directories: bool = False

    def become(self) -> None:
        """Turn the calling process into this account. For a forked child that is still root, before it executes the server."""
        if self.through_closed_directories:
            _keep_capabilities()
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)
        if self.through_closed_directories:
            _keep_only_reading_past_closed_directories()

    def __str__(self) -> str:
        return f"{self.name}, let through closed directories" if self.through_closed_directories else self.name


def account_for_server(needed: Sequence[Path]) -> Account | None:
    """The account that root lends a server which must be able to reach the `needed` paths; None when we are not root."""
    if os.geteuid() != 0:
        return None
    entry = next(entry for entry in map(_entry, _PREFERRED) if entry is not None)
    closed = not all(_is_reachable(path, entry) for path in needed)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, through_closed_directories=closed)


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        # Every Linux has `nobody`; where even /etc/passwd lacks it, its number is still 65534.
        return pwd.struct_passwd((name, "x", 65534, 65534, "", "/", "")) if name == "nobody" else None


def _is_reachable(path: Path, entry: pwd.struct_passwd) -> bool:
    """Whether every directory above `path` may be traversed by the account, going by its permission bits."""
    for parent in path.resolve().parents:
        state = parent.stat()
        bit = (
            stat.S_IXUSR
            if state.st_uid == entry.pw_uid
            else stat.S_IXGRP
            if state.st_gid == entry.pw_gid
            else stat.S_IXOTH
        )
        if not state.st_mode & bit:
            return False
    return True


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: object) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _keep_capabilities() -> None:
    # Without this, setuid drops them, and access(2), by which PostgreSQL finds its own files, would ignore them.
    _call("prctl", _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)


def _keep_only_reading_past_closed_directories() -> None:
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    _call("capget", ctypes.byref(header), ctypes.byref(sets))
    # Containers often have the wider of the two only.
    wanted = _CAP_DAC_READ_SEARCH if sets[0].permitted >> _CAP_DAC_READ_SEARCH & 1 else _CAP_DAC_OVERRIDE
    kept = (_Sets * 2)(_Sets(1 << wanted, 1 << wanted, 1 << wanted), _Sets(0, 0, 0))
    _call("capset", ctypes.byref(header), ctypes.byref(kept))
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, wanted, 0, 0)
