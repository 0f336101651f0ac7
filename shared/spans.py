"""The spans of batches in OpenTelemetry's words: imported by `shared.tracing` when traces are wanted, and by nobody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from shared.slices import Record

MOST_LINKS: Final = 32
"""Producers' spans, at most, that the span of one batch names."""
_HEADERS: Final = ("traceparent", "ce_traceparent")
_W3C: Final = TraceContextTextMapPropagator()


def exporting(service: str, instance: str, endpoint: str) -> TracerProvider:
    """Return a provider that sends spans to an OTLP/HTTP endpoint, in a thread of its own; what the endpoint does not take is dropped."""
    resource = Resource.create({"service.name": f"tallystick-{service}", "service.instance.id": instance})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")))
    return provider


class Spans:
    """Makes the spans of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("tallystick")

    @contextmanager
    def of_batch(self, topic: str, partition: int, records: Sequence[Record]) -> Iterator[None]:
        """Run a block as the span of a batch."""
        causes = causes_of(records)
        only = trace.set_span_in_context(trace.NonRecordingSpan(causes[0])) if len(causes) == 1 else None
        with self._tracer.start_as_current_span(
            f"process {topic}",
            context=only,
            kind=SpanKind.CONSUMER,
            links=[Link(cause) for cause in causes],
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(partition),
                "messaging.batch.message_count": len(records),
                "messaging.kafka.offset": records[0].offset,
            },
        ):
            yield

    def failed(self, error: BaseException) -> None:
        """Note in the present span that its batch failed: by the kind of the error, whose text may quote what customers sent."""
        span = trace.get_current_span()
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR))

    def headers(self) -> Mapping[str, str]:
        """Return the present span's context as headers."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return carrier


def causes_of(records: Iterable[Record]) -> list[SpanContext]:
    """Return the distinct contexts that records carry, in their order, up to `MOST_LINKS`; what is no context is passed over."""
    found: dict[tuple[int, int], SpanContext] = {}
    seen: set[bytes] = set()
    for record in records:
        for name, value in record.headers:
            if name in _HEADERS and value and value not in seen:
                seen.add(value)
                carried = _W3C.extract({"traceparent": value.decode("ascii", "replace")}, Context())
                context = trace.get_current_span(carried).get_span_context()
                if context.is_valid:
                    found.setdefault((context.trace_id, context.span_id), context)
        if len(found) >= MOST_LINKS:
            break
    return list(found.values())
