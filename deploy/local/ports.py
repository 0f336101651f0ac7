"""Free TCP ports on this machine's loopback address."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
# Below the range from which Linux takes ports for outgoing connections, so that none of those takes one of ours between two runs.
_FIRST, _LAST = 15000, 32000
_TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(remembered: int | None = None, *, taken: frozenset[int] = frozenset()) -> int:
    """The remembered port while it is free, else a random free one that is not in `taken`.

    Random, so that two stacks that start at the same time do not both find the same one free.
    """
    if remembered is not None and remembered not in taken and is_free(remembered):
        return remembered
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)  # noqa: S311 (not a secret)
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port between {_FIRST} and {_LAST} after {_TRIES} tries")
