"""The plug-in inside the real LiteLLM proxy: each kind of call is one event, and the gate holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.litellm.conftest import MakeProxy, Proxy
from tests.usage_api import Request, Said, UsageApi, usage_api

PROMPT: Final = "a secret that no event may contain"
MESSAGES: Final = [{"role": "user", "content": PROMPT}]
SUBSCRIPTION: Final = "019a2f6e-0c5b-7d10-9f5e-1b8c7c3a2d41"
DEFAULTS: Final = {"TALLYSTICK_API_KEY": "tsk_test", "TALLYSTICK_LITELLM_SUBSCRIPTION": SUBSCRIPTION}


class Gateway:
    """A proxy and what it reported: `ask` returns the status, and the events of the call that it made."""

    def __init__(self, proxy: Proxy, api: UsageApi) -> None:
        self.proxy = proxy
        self.api = api
        self._calls = 0
        self._settled = 0

    def ask(self, path: str, **body: Any) -> tuple[int, list[dict[str, Any]]]:
        """Make a call with an id of its own."""
        self._calls += 1
        call_id = f"call-{self._calls}"
        answer = self.proxy.ask("POST", path, body, **{"x-litellm-call-id": call_id})
        assert answer.complete
        self.settle()
        return answer.status, self.events_of(call_id)

    def events_of(self, call_id: str) -> list[dict[str, Any]]:
        return [event for event in self.api.events.values() if event["data"]["metadata"]["litellm_call_id"] == call_id]

    def settle(self) -> None:
        """Return when what the proxy had recorded is here: a call after it has arrived, and events keep their order."""
        self._settled += 1
        last = f"settled-{self._settled}"
        self.proxy.ask("POST", "/v1/embeddings", {"model": "embedding", "input": "x"}, **{"x-litellm-call-id": last})
        self.api.until(lambda: bool(self.events_of(last)))


def test_each_kind_of_call_is_one_event(make_proxy: MakeProxy) -> None:
    with usage_api() as api:
        gateway = Gateway(make_proxy(TALLYSTICK_URL=api.url, TALLYSTICK_LITELLM_METADATA="project", **DEFAULTS), api)
        chat: dict[str, Any] = {"model": "chat", "messages": MESSAGES}

        status, (event,) = gateway.ask(
            "/v1/chat/completions",
            **chat,
            user="ada",
            metadata={"project": "p-1", "tallystick_subscription": "another"},
        )
        assert (status, event["subject"]) == (200, SUBSCRIPTION), "what a client claims does not count"
        data = event["data"]
        assert (data["provider"], data["model"], data["feature_type"], data["status_code"]) == (
            "openai",
            "gpt-4o-mini",
            "chat",
            200,
        )
        assert (data["request_tokens"], data["response_tokens"], data["end_user"]) == (10, 20, "ada")
        assert data["metadata"] == {"litellm_call_id": "call-1", "model_group": "chat", "project": "p-1"}

        _, (event,) = gateway.ask("/v1/chat/completions", **chat, stream=True)
        assert event["data"]["metadata"]["stream"] is True
        assert min(event["data"]["request_tokens"], event["data"]["response_tokens"]) > 0

        _, (event,) = gateway.ask("/v1/embeddings", model="embedding", input=[PROMPT])
        assert (event["data"]["feature_type"], event["data"]["model"]) == ("embedding", "text-embedding-3-small")

        _, (event,) = gateway.ask("/v1/images/generations", model="image", prompt=PROMPT)
        assert (event["data"]["feature_type"], event["data"]["metadata"]["images"]) == ("image", 1)

        _, (event,) = gateway.ask("/v1/messages", model="claude", messages=MESSAGES, max_tokens=10)
        assert (event["data"]["provider"], event["data"]["model"]) == ("anthropic", "claude-sonnet-4-20250514")

        _, (event,) = gateway.ask("/v1/responses", model="chat", input=PROMPT)
        assert (event["data"]["model"], event["data"]["response_tokens"]) == ("gpt-4o-mini", 87)

        status, (event,) = gateway.ask("/v1/chat/completions", model="busy", messages=MESSAGES)
        assert (status, event["data"]["status_code"]) == (429, 429)
        assert event["data"]["error_message"].startswith("RateLimitError")

        status, (event,) = gateway.ask("/v1/chat/completions", model="broken", messages=MESSAGES)
        assert (status, event["data"]["status_code"]) == (200, 200), (
            "the second try succeeded, the first is no request of its own"
        )

        status, none = gateway.ask("/v1/chat/completions", model="unknown", messages=MESSAGES)
        assert (status, none) == (400, [])

        cached = {**chat, "messages": [{"role": "user", "content": "asked twice"}], "cache": {"use-cache": True}}
        _, (first,) = gateway.ask("/v1/chat/completions", **cached)
        _, (second,) = gateway.ask("/v1/chat/completions", **cached)
        assert first["data"]["request_tokens"] == 10
        assert "request_tokens" not in second["data"]
        assert second["data"]["metadata"]["cache_hit"] is True

        for _ in range(3):  # a client that names all its calls alike has made three all the same
            gateway.proxy.ask("POST", "/v1/chat/completions", chat, **{"x-litellm-call-id": "always-this"})
        gateway.settle()
        assert len(gateway.events_of("always-this")) == 3

        assert PROMPT not in json.dumps(list(api.events.values()))
        assert "an answer" not in json.dumps(list(api.events.values()))


HOLD: Final = {"id": "r-1", "subscription": SUBSCRIPTION, "expires_at": "2026-11-27T10:10:00Z"}
REFUSED: Final = {
    "type": "urn:tallystick:problem:limit-exceeded",
    "detail": "12 of 10 tokens: quota_tokens",
    "reasons": ["quota_tokens"],
}


def test_a_request_is_served_only_with_a_reservation(make_proxy: MakeProxy, tmp_path: Path) -> None:
    holds: list[Said | None] = []

    def answer(request: Request) -> Said | None:
        if request.path == "/api/v1/reservations":
            return holds.pop(0) if holds else Said(201, HOLD)
        return Said(204) if request.method == "DELETE" else None

    with usage_api() as api:
        api.otherwise = answer
        proxy = make_proxy(
            TALLYSTICK_URL=api.url,
            TALLYSTICK_LITELLM_ENFORCE="reservations",
            TALLYSTICK_LITELLM_WHEN_AWAY="refuse",
            **DEFAULTS,
        )
        gateway = Gateway(proxy, api)

        status, (event,) = gateway.ask("/v1/chat/completions", model="chat", messages=MESSAGES, max_tokens=50)
        assert (status, event["data"]["reservation_id"]) == (200, "r-1")
        asked = next(request for request in api.requests if request.path == "/api/v1/reservations")
        assert asked.content["subscription"] == SUBSCRIPTION
        assert asked.content["tokens"] == 50 + (len(PROMPT) + len("user")) // 4
        assert asked.content["model"] == "gpt-4o-mini", "what stands in the price list"
        assert asked.headers["idempotency-key"]

        holds.append(Said(409, REFUSED))
        refused = proxy.ask("POST", "/v1/chat/completions", {"model": "chat", "messages": MESSAGES})
        assert (refused.status, b"12 of 10 tokens" in refused.body) == (429, True)

        holds.append(Said(503, {"detail": "no database"}))
        away = proxy.ask("POST", "/v1/chat/completions", {"model": "chat", "messages": MESSAGES})
        assert (away.status, b"try again later" in away.body) == (503, True)

        status, none = gateway.ask("/v1/chat/completions", model="unknown", messages=MESSAGES)
        assert (status, none) == (400, [])
        api.until(lambda: any(request.method == "DELETE" for request in api.requests))

        assert {event["data"]["status_code"] for event in api.events.values()} == {200}, "who was refused used nothing"
