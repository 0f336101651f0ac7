"""stripe-mock: Stripe's own stand-in, which checks every parameter against the description of its API. Installed by `make test-stripe`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from queue import Queue

import pytest

STARTS_WITHIN_SECONDS = 60.0
_ADDRESS = re.compile(r"HTTP at address: (\S+)")


@pytest.fixture(scope="session")
def stripe_mock() -> Iterator[str]:
    """The URL of a stripe-mock. Fails, and never skips, where there is none: `make test-stripe` installs it."""
    program = os.environ.get("STRIPE_MOCK") or shutil.which("stripe-mock")
    if not program:
        pytest.fail("there is no stripe-mock: run these tests by `make test-stripe`, which installs it (with Go)")
    addresses: Queue[str] = Queue()
    words = [program, "-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        threading.Thread(target=_watch, args=(process, addresses), daemon=True).start()
        try:
            yield f"http://{addresses.get(timeout=STARTS_WITHIN_SECONDS)}"
        finally:
            process.terminate()


def _watch(process: subprocess.Popen[str], addresses: Queue[str]) -> None:
    for line in process.stdout or ():
        if found := _ADDRESS.search(line):
            addresses.put(found.group(1))
