"""Traces of batches, if a person has set where they go. Otherwise nothing is imported, and a batch costs one look at a variable.

A batch has many causes: its span *links* to the spans of those who sent its records, as their `traceparent` headers tell (W3C Trace Context;
in CloudEvents' binary mode `ce_traceparent`), and is the child of the one from which all of them come, if that is one. What the batch publishes
after its COMMIT carries its own context, so that the spans of the aggregator and of billing follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from shared.slices import Record
    from shared.spans import Spans

_NO_HEADERS: Final[Mapping[str, str]] = {}

_spans: Spans | None = None


def start(service: str, instance: str, endpoint: str) -> None:
    """Send spans to the OTLP/HTTP `endpoint` from now on; an empty one leaves all as it is. Raises `ConfigurationError` without OpenTelemetry."""
    global _spans  # noqa: PLW0603 (there is one for the process, as there is one of each metric)
    if not endpoint:
        return
    try:
        from shared.spans import Spans, exporting  # noqa: PLC0415 (optional, and slow to import)
    except ImportError:
        raise ConfigurationError(
            "TALLYSTICK_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: pip install 'tallystick[tracing]', or unset it"
        ) from None
    _spans = Spans(exporting(service, instance, endpoint))


def stop() -> None:
    """Send what is left, within some seconds."""
    if _spans is not None:
        _spans.provider.shutdown()


def batch(topic: str, partition: int, records: Sequence[Record]) -> AbstractContextManager[object]:
    """Return the span of a batch, as a context that ends it."""
    return nullcontext() if _spans is None else _spans.of_batch(topic, partition, records)


def failed(error: BaseException) -> None:
    """Note in the present span, if there is one, that its batch failed."""
    if _spans is not None:
        _spans.failed(error)


def headers() -> Mapping[str, str]:
    """Return the headers by which whoever reads a message knows the present span; none without one."""
    return _NO_HEADERS if _spans is None else _spans.headers()
