"""The trace of a usage event goes on in what becomes of it, through every service, when a person has set where traces go."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.cli.demo.events import Events
from services.cli.demo.record import Record
from services.cli.demo.world import read_world
from tests.pipeline.running import Pipeline, workers

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes traces over OTLP/HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in request.resource_spans:
                    [name] = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
                    collector.spans += [(name, span) for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def in_trace(self) -> dict[str, Any]:
        """The spans of the event's trace, by service."""
        return {name: span for name, span in self.spans if span.trace_id.hex() == TRACE}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    threading.Thread(target=collector.server.serve_forever, daemon=True).start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


async def test_a_trace_goes_from_an_event_through_every_service(pipeline: Pipeline, collector: Collector) -> None:
    traced = replace(
        pipeline,
        environ=pipeline.environ | {"TALLYSTICK_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "100"},
    )
    async with traced.running(*workers(ingest=1, aggregator=1, billing=1)):
        await traced.publish([await _event(pipeline.environ["DATABASE_URL"])])
        await traced.caught_up()
    spans = await asyncio.to_thread(collector.in_trace)  # a worker that stops has sent what it had

    assert spans.keys() == {"tallystick-ingest", "tallystick-aggregator", "tallystick-billing"}
    ingest = spans.pop("tallystick-ingest")
    assert (ingest.name, ingest.parent_span_id.hex()) == (
        "process " + pipeline.kafka.kafka_topic_prefix + "usage.events",
        SPAN,
    )
    assert [link.span_id.hex() for link in ingest.links] == [SPAN]
    assert {span.parent_span_id for span in spans.values()} == {ingest.span_id}


async def _event(database_url: str) -> Record:
    world = await read_world(database_url)
    drawn = Events(random.Random(1), "traced", world.models, world.libraries)
    event = drawn.draw(world.subscribers[0], datetime.now(UTC).timestamp() - 1)
    header = ("traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    return event.record._replace(headers=(*event.record.headers, header))


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys; from services.ingest import app; from shared import tracing; tracing.start('ingest', '0', ''); "
        "assert dict(tracing.headers()) == {}; sys.exit('opentelemetry.sdk' in sys.modules or 'opentelemetry.trace' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
