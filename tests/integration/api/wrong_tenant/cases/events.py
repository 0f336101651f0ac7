"""Usage that somebody reports in the name of the victim."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tests.integration.api.conftest import NOW
from tests.integration.api.wrong_tenant.stage import Stage, own
from tests.unit.ingest.events import document


def event(stage: Stage) -> dict[str, Any]:
    return document(
        subject=stage.things["subscription"], time=NOW.isoformat(), data={"api_key_id": stage.things["key"]}
    )


def span_of_chat(subscription: object, at: datetime) -> dict[str, Any]:
    """A span as OTLP's JSON has it, which says whose it is."""
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "tallystick.subscription": str(subscription),
    }
    return {
        "traceId": "ab" * 16,
        "spanId": "cd" * 8,
        "endTimeUnixNano": str(int(at.timestamp()) * 10**9),
        "attributes": [{"key": name, "value": {"stringValue": value}} for name, value in said.items()],
    }


def trace(stage: Stage) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span_of_chat(stage.things["subscription"], NOW)]}]}]}


CASES = {"POST /api/v1/events": own(json=event), "POST /v1/traces": own(json=trace)}
