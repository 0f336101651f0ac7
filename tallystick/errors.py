"""What can go wrong for a producer. A message says what happened and what to do."""

from __future__ import annotations


class ProducerError(Exception):
    """Base of every error of this package: `str(error)` is one line that says what to do next."""


class InvalidEvent(ProducerError):
    """An event breaks a rule of the contract. `field` names where, such as `data.request_tokens`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class SpoolError(ProducerError):
    """The spool's directory cannot be used."""


class SpoolFull(SpoolError):
    """There is no room for the record, which is NOT kept: the caller has it, and decides."""


class DeliveryError(ProducerError):
    """What is spooled could not be delivered in the time given. It stays on disk, and is tried again."""


class ApiError(ProducerError):
    """The HTTP API refused a request. `status` is its HTTP status, `problem` the slug of its problem type."""

    def __init__(self, status: int, problem: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem


class LimitExceeded(ApiError):
    """A reservation was refused: `reasons` say by which limits."""

    def __init__(self, status: int, problem: str, detail: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(status, problem, detail)
        self.reasons = reasons


class ApiAway(ProducerError):
    """The HTTP API does not answer, or asks to come back later. `retry_after` seconds, where it said so."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
