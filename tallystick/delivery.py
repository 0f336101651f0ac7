"""Takes records out of the spool and to their transport, in a thread of its own, again and again until they are delivered."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from tallystick.errors import DeliveryError, SpoolError
from tallystick.spool import Spool, adopt_siblings
from tallystick.transports import Rejection, Transport, Undelivered, from_record

_log: Final = logging.getLogger("tallystick.delivery")

MOST_RECORDS: Final = 1000
LINGER_SECONDS: Final = 0.02
"""How long the first record of a batch waits for others."""
FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 15.0
_COMPLAIN_EVERY_SECONDS: Final = 30.0
_ADOPT_EVERY_SECONDS: Final = 60.0
_MOST_REJECTED_BYTES: Final = 16 * 1024**2
REJECTED_FILE: Final = "rejected.jsonl"


class Delivery:
    """Delivers what is spooled, and what will be. `delivered`, `rejected` and `failures` count; `problem` says why nothing goes out, if so.

    A rejected event is logged as an error, kept in `rejected.jsonl` beside the spool (up to 16 MiB), and handed to `on_rejected`.
    """

    def __init__(
        self,
        spool: Spool,
        transport: Transport,
        *,
        on_rejected: Callable[[Rejection], None] | None = None,
        shared_parent: bool = False,
    ) -> None:
        self.delivered = 0
        self.rejected = 0
        self.failures = 0
        self.problem: str | None = None
        self._spool = spool
        self._transport = transport
        self._on_rejected = on_rejected
        self._shared_parent = shared_parent
        self._adopted = time.monotonic()
        self._complained = -_COMPLAIN_EVERY_SECONDS
        self._work = threading.Event()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        self._acknowledged = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="tallystick-delivery", daemon=True)
        self._work.set()  # what the last process has left
        self._thread.start()

    def notify(self) -> None:
        """Say that something was appended."""
        if not self._work.is_set():
            self._work.set()

    def flush(self, timeout_seconds: float) -> None:
        """Return when all that was spooled before is delivered. Raises `DeliveryError` that says why it is not."""
        until, end = time.monotonic() + timeout_seconds, self._spool.end
        self._hurry.set()
        self._work.set()
        with self._acknowledged:
            delivered = self._acknowledged.wait_for(
                lambda: self._spool.start >= end, max(0.0, until - time.monotonic())
            )
        self._hurry.clear()
        if not delivered:
            raise DeliveryError(
                f"{self._spool.waiting_bytes} bytes are not delivered after {timeout_seconds:g} s; they stay in {self._spool.directory} "
                f"and are tried again: {self.problem or 'no answer yet'}"
            )

    def stop(self) -> None:
        """End the thread, after the batch that is on its way. What is not delivered stays in the spool."""
        self._stopping.set()
        self._work.set()
        self._hurry.set()  # ends the linger
        self._thread.join()
        self._transport.close()

    def _run(self) -> None:
        failed = 0
        while not self._stopping.is_set():
            self._work.wait(_ADOPT_EVERY_SECONDS)
            self._hurry.wait(LINGER_SECONDS)
            self._work.clear()
            try:
                self._adopt_now_and_then()
                while not self._stopping.is_set() and self._deliver_one():
                    failed = 0
            except Exception as error:  # whatever a transport or a disk comes up with: nothing may end the delivery
                failed += 1
                self._complain(error)
                self._stopping.wait(_wait_seconds(failed, getattr(error, "retry_after", None)))
                self._work.set()

    def _deliver_one(self) -> bool:
        """Deliver the next batch; tell whether there was one."""
        batch = self._spool.read(MOST_RECORDS)
        if batch is not None:
            rejections = self._transport.send(batch.records)
            for rejection in rejections:
                self._keep_rejected(rejection)
            self._spool.acknowledge(batch)
            self.rejected += len(rejections)
            self.delivered += len(batch.records) - len(rejections)
            self.problem = None
        with self._acknowledged:
            self._acknowledged.notify_all()
        return batch is not None

    def _keep_rejected(self, rejection: Rejection) -> None:
        key, body = from_record(rejection.record)
        _log.error(
            "delivery.rejected %s: %s (key %s)", rejection.reason, rejection.detail, key.decode(errors="replace")
        )
        path = self._spool.directory / REJECTED_FILE
        if not path.exists() or path.stat().st_size < _MOST_REJECTED_BYTES:
            line = {"reason": rejection.reason, "detail": rejection.detail, "event": body.decode(errors="replace")}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self._on_rejected is not None:
            try:
                self._on_rejected(rejection)
            except Exception:
                _log.exception("delivery.on_rejected_failed")

    def _complain(self, error: Exception) -> None:
        self.failures += 1
        self.problem = str(error) or type(error).__name__
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_SECONDS:
            self._complained = now
            expected = isinstance(error, Undelivered | SpoolError)
            _log.error(
                "delivery.failed %s; %d bytes wait in %s, and are tried again",
                self.problem,
                self._spool.waiting_bytes,
                self._spool.directory,
                exc_info=None if expected else error,
            )

    def _adopt_now_and_then(self) -> None:
        if self._shared_parent and time.monotonic() - self._adopted >= _ADOPT_EVERY_SECONDS:
            self._adopted = time.monotonic()
            adopt_siblings(self._spool)


def _wait_seconds(failures: int, asked: float | None) -> float:
    """Return how long to wait after so many failures in a row: as long as the server asks, else twice as long each time, with jitter."""
    most = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 16))
    return max(min(asked or 0.0, LONGEST_WAIT_SECONDS), most * random.uniform(0.5, 1.0))  # noqa: S311 – jitter, not a secret
