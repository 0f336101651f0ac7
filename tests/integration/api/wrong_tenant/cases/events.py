"""Usage that somebody reports in the name of the victim."""

from __future__ import annotations

from typing import Any

from tests.integration.api.conftest import NOW
from tests.integration.api.wrong_tenant.stage import Stage, own
from tests.unit.ingest.events import document


def event(stage: Stage) -> dict[str, Any]:
    return document(
        subject=stage.things["subscription"], time=NOW.isoformat(), data={"api_key_id": stage.things["key"]}
    )


def trace(stage: Stage) -> dict[str, Any]:
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "tallystick.subscription": stage.things["subscription"],
    }
    span = {
        "traceId": "ab" * 16,
        "spanId": "cd" * 8,
        "endTimeUnixNano": str(int(NOW.timestamp()) * 10**9),
        "attributes": [{"key": name, "value": {"stringValue": value}} for name, value in said.items()],
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


CASES = {"POST /api/v1/events": own(json=event), "POST /v1/traces": own(json=trace)}
