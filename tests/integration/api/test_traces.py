"""OpenTelemetry's traces: the real SDK and exporter over a real socket, and what becomes of spans that are no usage or not right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Status, StatusCode

from deploy.local import ports
from services.api.serving import _server
from shared.contracts import USAGE_EVENTS
from tests.conftest import CreateTopic
from tests.integration.api.conftest import NOW
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.kafka import Way, way
from tests.integration.api.wrong_tenant.cases.events import span_of_chat

PROTOBUF = "application/x-protobuf"
NANOSECONDS = int(NOW.timestamp()) * 10**9


@pytest_asyncio.fixture
async def api(
    database: str, kafka_bootstrap: str, topic_prefix: str, create_topic: CreateTopic, facts: Facts
) -> AsyncIterator[Way]:
    await create_topic(USAGE_EVENTS, partitions=3)
    async with way(database, kafka_bootstrap, topic_prefix, facts.clock) as found:
        yield found


@pytest_asyncio.fixture
async def url(api: Way) -> AsyncIterator[str]:
    """The application on a real socket."""
    port = ports.choose()
    server = _server(api.app, "127.0.0.1", port, 1)
    server.config.lifespan = "off"
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=20)) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/api/v1/me")).status_code == 401
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_an_instrumented_gateway_needs_another_url_and_nothing_else(
    api: Way, url: str, facts: Facts, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    ada = await facts.customer()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"Authorization=Bearer%20{ada.key}")

    def serve_requests() -> None:
        provider = TracerProvider(resource=Resource.create({"service.name": "crm", "service.namespace": "eu"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        tracer = provider.get_tracer("tests")
        with tracer.start_as_current_span("POST /chat", end_on_exit=False) as request:
            chat = tracer.start_span("chat gpt-4o", start_time=NANOSECONDS - 1_250_000_000)
            chat.set_attributes(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.request.model": "gpt-4o",
                    "gen_ai.provider.name": "openai",
                    "gen_ai.usage.input_tokens": 812,
                    "gen_ai.usage.output_tokens": 164,
                    "gen_ai.response.finish_reasons": ["stop"],
                }
            )
            chat.end(NANOSECONDS)
            failed = tracer.start_span("execute_tool search", start_time=NANOSECONDS)
            failed.set_attributes({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"})
            failed.set_status(Status(StatusCode.ERROR, "no such index"))
            failed.end(NANOSECONDS)
            request.end(NANOSECONDS)
        assert provider.force_flush()
        provider.shutdown()

    await asyncio.to_thread(serve_requests)
    stored = sorted((event for _, event in await api.published()), key=lambda event: "tool_name" in event["data"])
    assert [event["subject"] for event in stored] == [str(ada.subscription_id)] * 2, "the server's own span is none"
    assert {event["source"] for event in stored} == {f"/subscriptions/{ada.subscription_id}/otel/eu/crm"}
    chat, tool = (event["data"] for event in stored)
    assert (chat["model"], chat["request_tokens"], chat["response_tokens"], chat["latency_ms"]) == ("gpt-4o", 812, 164, 1250)  # fmt: skip
    assert (tool["tool_name"], tool["status_code"], tool["error_message"]) == ("search", 500, "no such index")


async def test_the_exporter_tells_what_was_refused(url: str, facts: Facts, caplog: pytest.LogCaptureFixture) -> None:
    ada, bob = await facts.customer(), await facts.customer()
    headers = {"Authorization": f"Bearer {ada.key}"}
    provider = TracerProvider()
    span: Any = provider.get_tracer("tests").start_span("chat", start_time=NANOSECONDS)
    span.set_attributes(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "m",
            "tallystick.subscription": str(bob.subscription_id),
        }
    )
    span.end(NANOSECONDS)
    exporter = OTLPSpanExporter(f"{url}/v1/traces", headers=headers)
    assert await asyncio.to_thread(exporter.export, [span]) is SpanExportResult.SUCCESS
    nobody = OTLPSpanExporter(f"{url}/v1/traces", headers={"Authorization": "Bearer tsk_" + "x" * 50})
    assert await asyncio.to_thread(nobody.export, [span]) is SpanExportResult.FAILURE


async def post(api: Way, who: Customer, content: bytes, kind: str, **headers: str) -> httpx.Response:
    return await api.client.post(
        "/v1/traces", content=content, headers={**who.headers, "Content-Type": kind, **headers}
    )


async def test_spans_are_refused_one_by_one_and_the_answer_has_the_encoding_of_the_request(
    api: Way, facts: Facts
) -> None:
    gateway, ada = await facts.customer("service"), await facts.customer()
    good = span_of_chat(ada.subscription_id, NOW)
    nobody = {**good, "spanId": "ef" * 8, "attributes": good["attributes"][:2]}
    nameless = {**good, "spanId": ""}
    other = {"traceId": "ab" * 16, "spanId": "01" * 8, "name": "GET /", "kind": 2}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [good, nobody, nameless, other]}]}]}
    answer = await api.client.post("/v1/traces", json=body, headers=gateway.headers)
    assert answer.status_code == 200
    partial = answer.json()["partialSuccess"]
    assert partial["rejectedSpans"] == "2"
    assert "nobody_named: give a subject" in partial["errorMessage"]
    assert "a trace id of 16 bytes" in partial["errorMessage"]
    again = await api.client.post(
        "/v1/traces", json={"resourceSpans": [{"scopeSpans": [{"spans": [good]}]}]}, headers=gateway.headers
    )
    assert again.json() == {}
    ((key, first), (_, second)) = await api.published()
    assert first == second, "a span that is exported twice has one identity"
    assert (key, first["id"]) == (str(ada.subscription_id), f"{good['traceId']}-{good['spanId']}")

    empty = await post(api, gateway, ExportTraceServiceRequest().SerializeToString(), PROTOBUF)
    assert (empty.status_code, empty.headers["content-type"]) == (200, PROTOBUF)
    assert not ExportTraceServiceResponse.FromString(empty.content).HasField("partial_success")


async def test_what_is_no_trace_is_refused_as_a_whole(api: Way, facts: Facts) -> None:
    ada = await facts.customer()
    answers = [
        await post(api, ada, b"\xff", PROTOBUF),
        await post(api, ada, b"[]", "application/json"),
        await post(api, ada, b"", "text/plain"),
        await post(api, ada, b"", PROTOBUF, **{"Content-Encoding": "gzip"}),
        await api.client.post("/v1/traces", content=b"", headers={"Content-Type": PROTOBUF}),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 415, 400, 401]
