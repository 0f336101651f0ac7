"""Draws single usage events of realistic size and variety (pure, seeded)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from services.cli.demo.record import Record
from shared.contracts import SPEC_VERSION, USAGE_TYPE
from shared.corrections import VOID_TYPE

ERRORS: Final = (
    (429, "rate limited by the provider"),
    (500, "upstream error"),
    (503, "overloaded"),
    (400, "invalid request"),
)

_POWER_LEVELS = ("balanced", "balanced", "balanced", "eco", "precision")
_FEATURES = ("chat", "chat", "chat", "completion", "analysis")
_TOOLS = ("get-library-docs", "get-library-docs", "resolve-library-id")
_APPS = ("crm", "helpdesk", "ide", "search", "batch")
_REGIONS = ("eu-1", "us-1", "ap-1")
_TABLE = 8_191
_CONTENT_TYPE = ("content-type", b"application/json")
encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the price list. `scale` stretches its lognormal token counts; one that only embeds does not answer."""

    id: str
    provider: str
    scale: float = 1.0
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription as gateways know it: its id, the one model it is for (None: any), and the hash of an API key of it."""

    subscription_id: str
    model: str | None = None
    key_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A valid event: its record, and what its use adds up to."""

    id: str
    source: str
    record: Record
    subscription_id: str
    error: bool
    request_tokens: int
    response_tokens: int
    cached_tokens: int


class Events:
    """Draws events; each gets the next id of this run, so that no two share an identity."""

    def __init__(self, rng: random.Random, run: str, models: Sequence[Model], libraries: Sequence[str]) -> None:
        self._rng, self._libraries = rng, libraries
        self._models = {model.id: model for model in models}
        self._ids = list(self._models)
        self._prompts = [int(rng.lognormvariate(6.2, 1.3)) + 3 for _ in range(_TABLE)]
        self._answers = [int(rng.lognormvariate(5.0, 1.0)) + 1 for _ in range(_TABLE)]
        self._sources = [f"/demo/{run}/gateway-{region}" for region in _REGIONS]
        self._number = 0

    def next_id(self) -> str:
        """Return an event id that this run has not used."""
        self._number += 1
        return f"req-{self._number:08d}"

    def draw(self, subscriber: Subscriber, time: float) -> Event:
        """Return a valid event of `subscriber` at the POSIX time `time`: a model's answer, or now and then a tool call."""
        random_ = self._rng.random
        data = self._tool_call() if random_() < 0.05 else self._answer(subscriber.model)
        if random_() < 0.03:
            data["status_code"], data["error_message"] = ERRORS[int(random_() * len(ERRORS))]
            data["response_tokens"] = 0
        subject: str | None = subscriber.subscription_id
        if subscriber.key_hash and random_() < 0.05:  # a gateway that knows keys only, like LiteLLM
            subject, data["api_key_hash"] = None, subscriber.key_hash
        id_, source = self.next_id(), self._sources[hash_of(subscriber.subscription_id) % len(self._sources)]
        return Event(
            id_,
            source,
            self._record(subscriber, subject, self._envelope(id_, source, USAGE_TYPE, time), data),
            subscriber.subscription_id,
            data["status_code"] >= 400,
            data["request_tokens"],
            data["response_tokens"],
            data["cached_tokens"],
        )

    def take_back(self, event: Event, time: float) -> Record:
        """Return the record by which a gateway takes back an event that it has sent before, at the POSIX time `time`."""
        envelope = self._envelope(self.next_id(), event.source, VOID_TYPE, time) | {"subject": event.subscription_id}
        return Record(event.subscription_id.encode(), encode({**envelope, "data": {"voids": event.id}}))

    def _answer(self, only_model: str | None) -> dict[str, Any]:
        random_ = self._rng.random
        model = self._models[
            only_model if only_model in self._models else self._ids[int(random_() ** 2 * len(self._ids))]
        ]
        asked = int(self._prompts[int(random_() * _TABLE)] * model.scale) + 1
        answered = int(self._answers[int(random_() * _TABLE)] * model.scale) + 1 if model.answers else 0
        return {
            "model": model.id,
            "provider": model.provider,
            "request_tokens": asked,
            "response_tokens": answered,
            "cached_tokens": int(asked * random_()) if random_() < 0.3 else 0,
            "latency_ms": 80 + int(asked * 0.05 + answered * (8 + 14 * random_())),
            "status_code": 200,
            "power_level": _POWER_LEVELS[int(random_() * 5)],
            "byok": random_() < 0.04,
            "feature_type": _FEATURES[int(random_() * 5)],
            "app_id": _APPS[int(random_() * 5)],
            "session_id": f"s-{int(random_() * 5_000)}",
            "end_user": f"u-{int(random_() * 2_000)}",
        }

    def _tool_call(self) -> dict[str, Any]:
        random_ = self._rng.random
        return {
            "tool_name": _TOOLS[int(random_() * 3)],
            "provider": "docs",
            "request_tokens": 8 + int(40 * random_()),
            "response_tokens": 0,
            "cached_tokens": 0,
            "tokens_returned": 500 + int(9_500 * random_()),
            "library_id": self._libraries[int(random_() * len(self._libraries))],
            "latency_ms": 20 + int(300 * random_()),
            "status_code": 200,
            "metadata": {"page": int(5 * random_()), "client": "mcp"},
        }

    def _envelope(self, id_: str, source: str, type_: str, time: float) -> dict[str, str]:
        return {
            "specversion": SPEC_VERSION,
            "id": id_,
            "source": source,
            "type": type_,
            "time": datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }

    def _record(
        self, subscriber: Subscriber, subject: str | None, envelope: dict[str, str], data: dict[str, Any]
    ) -> Record:
        if subject is not None:
            envelope["subject"] = subject
        key = subscriber.subscription_id.encode()
        if self._rng.random() < 0.02:  # CloudEvents binary mode: attributes in headers, data in the body
            headers = tuple((f"ce_{name}", text.encode()) for name, text in envelope.items())
            return Record(key, encode(data), (_CONTENT_TYPE, *headers))
        return Record(key, encode({**envelope, "data": data}))


def hash_of(subscription_id: str) -> int:
    """Return a small number that is the same in every process (unlike `hash`)."""
    return int(subscription_id[-4:], 16)
