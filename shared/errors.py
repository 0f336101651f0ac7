"""The exception hierarchy. A message says what happened and what to do; the command line prints it as one line."""

from __future__ import annotations


class TallystickError(Exception):
    """Base of every error that is meant for a person: `str(error)` is one line that says what to do next."""


class ConfigurationError(TallystickError):
    """A setting, flag or file is missing or wrong."""


class NotFound(TallystickError):
    """What somebody named does not exist."""


class KeyReused(TallystickError):
    """An idempotency key was used for something else before: take a new one, or repeat the same."""


class ServiceUnavailable(TallystickError):
    """Kafka or Postgres does not answer at the address that is configured."""


class BrokenInvariant(TallystickError):
    """Something that must never be is so: stop, do not guess. Names the invariant and the place to look."""
