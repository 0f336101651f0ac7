"""What crosses Kafka: topic names and the frozen messages. Knows no service; documented in docs/reference/contracts.md.

Producers in any language follow the JSON Schema that `usage_event_schema()` returns (`tallystick schema usage-event`).
Messages are decoded with msgspec, whose errors name the field and what was expected there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from inspect import cleandoc
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

USAGE_EVENTS: Final = "usage.events"
USAGE_RECORDED: Final = "usage.recorded"
USAGE_DEAD_LETTER: Final = "usage.dead-letter"
SUBSCRIPTION_STATUS: Final = "subscription.status"
BILLING_EVENTS: Final = "billing.events"
COMPACTED_TOPICS: Final = frozenset({SUBSCRIPTION_STATUS})

USAGE_TYPE: Final = "tallystick.usage.v1"
SPEC_VERSION: Final = "1.0"
CLOUDEVENT_HEADERS: Final = {"content-type": "application/cloudevents+json"}
"""Kafka headers of a CloudEvent in structured mode."""

MAX_COUNT: Final = 2**53 - 1
MAX_STRING: Final = 512

LATENCY_BUCKETS_MS: Final = (50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200)
"""Upper bounds (inclusive, milliseconds) of the latency histogram; one more bucket holds what is slower."""
LATENCY_BUCKET_COUNT: Final = len(LATENCY_BUCKETS_MS) + 1

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Text = Annotated[str, Meta(max_length=MAX_STRING)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_STRING)]
Instant = Annotated[datetime, Meta(tz=True)]


# --- usage.events (gateways → ingest) --------------------------------------------------------------------------------


class UsageData(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What was used: the `data` of a usage event. Token counts are integers in [0, 2^53).

    `request_tokens` includes `cached_tokens` (normalise counts of providers that exclude them before sending). Unknown
    attributes are not refused: ingest keeps them under `metadata`.
    """

    api_key_id: Text | None = None
    api_key_hash: Text | None = None
    model: Name | None = None
    provider: Text | None = None
    request_tokens: Count = 0
    response_tokens: Count = 0
    cached_tokens: Count = 0
    latency_ms: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    status_code: Annotated[int, Meta(ge=100, le=599)] = 200
    error_message: Text | None = None
    power_level: Name | None = None
    byok: bool = False
    feature_type: Text | None = None
    tool_name: Name | None = None
    library_id: Text | None = None
    tokens_returned: Count | None = None
    reservation_id: Text | None = None
    app_id: Text | None = None
    session_id: Text | None = None
    end_user: Text | None = None
    metadata: dict[str, Any] | None = None


class UsageEvent(Struct, frozen=True, gc=False):
    """A CloudEvents 1.0 event of type `tallystick.usage.v1`. `(source, id)` is its identity, `subject` the subscription."""

    specversion: Literal["1.0"]
    id: Name
    source: Name
    type: Literal["tallystick.usage.v1"]
    time: Instant
    data: UsageData
    subject: Text | None = None


def usage_event_schema() -> dict[str, Any]:
    """Return the published JSON Schema (2020-12) of a usage event, as structured-mode CloudEvents JSON.

    Ingest accepts what it admits, but for what a schema cannot say: `cached_tokens` within `request_tokens`, a `time` with
    a zone and inside the window of acceptance, the size of metadata and of the record, no NUL character in a text.
    """
    _, components = msgspec.json.schema_components([UsageEvent], ref_template="#/$defs/{name}")
    event, data = components["UsageEvent"], components["UsageData"]
    event["properties"]["specversion"] = {"const": SPEC_VERSION}
    event["properties"]["type"] = {"const": USAGE_TYPE}
    event["properties"]["time"]["description"] = "When it was used: RFC 3339 with a zone, microseconds."
    event["properties"]["subject"]["description"] = "Subscription id (UUID)."
    event["properties"]["datacontenttype"] = {
        "description": "application/json; `data` is read as JSON whatever it says."
    }
    data["additionalProperties"] = True  # unknown attributes are kept under metadata
    data["properties"]["cached_tokens"]["description"] = "Part of request_tokens, never more than those."
    data["anyOf"] = [_given("model"), _given("tool_name")]
    event["anyOf"] = [
        _given("subject"),
        {"properties": {"data": {"anyOf": [_given("api_key_id"), _given("api_key_hash")]}}},
    ]
    for part in (event, data):
        part["description"] = cleandoc(part["description"])
    return {
        **event,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:tallystick:usage-event:v1",
        "title": "Tallystick usage event",
        "$defs": {"UsageData": data},
    }


def _given(name: str) -> dict[str, Any]:
    """Return a schema that asks for an attribute with a text in it."""
    return {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}}


# --- usage.recorded (ingest → aggregator, billing) -------------------------------------------------------------------


class Origin(Struct, frozen=True):
    """Where a batch came from. Offsets are half-open `[first_offset, next_offset)`; None for a batch of held events."""

    cluster: str
    topic: str
    partition: int
    epoch: int
    first_offset: int | None = None
    next_offset: int | None = None


class UsageDelta(Struct, omit_defaults=True, gc=False):
    """What one batch adds for one key: everything up to `app_id` is the key, the rest are sums over its rows of the log.

    Sums are signed: a row that takes an event back (`reversals` of them) subtracts what the event had added, so that
    `requests` are events less those taken back. `status_class` is 2 for status codes below 400, else the hundreds digit
    (4, 5). `total = request + response` tokens. Latencies in milliseconds; `latency_count` counts the events that
    reported one. `reservations` are those that its events named, whether there are such or not.
    """

    subscription_id: UUID
    hour: datetime
    api_key_id: UUID | None = None
    model_id: str = ""
    tool_name: str = ""
    provider: str = ""
    feature_type: str = ""
    power_level: str = "balanced"
    byok: bool = False
    status_class: int = 2
    app_id: str = ""
    requests: int = 0
    errors: int = 0
    request_tokens: int = 0
    response_tokens: int = 0
    cached_tokens: int = 0
    tokens_returned: int = 0
    latency_sum_ms: int = 0
    latency_count: int = 0
    latency_histogram: list[int] = []
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None
    reversals: int = 0
    reservations: list[UUID] = []

    @property
    def rows(self) -> int:
        """How many rows of the log it sums up: each counts 1, or takes 1 back."""
        return self.requests + 2 * self.reversals


class ProviderDelta(Struct, omit_defaults=True, gc=False):
    """What one batch saw of one provider in one UTC minute of event time, in the order of the partition."""

    provider: str
    minute: datetime
    requests: int = 0
    errors: int = 0
    rate_limited: int = 0
    latency_sum_ms: int = 0
    latency_count: int = 0
    latency_histogram: list[int] = []
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    trailing_failures: int = 0


class UsageRecorded(Struct, frozen=True):
    """One committed batch of one source partition, pre-aggregated. `(batch_id, part)` is its identity.

    `event_count` counts the rows of the log behind it, reversals as well. `by_app`: its deltas are told apart by app; those
    of the version before were not.
    """

    batch_id: UUID
    part: int
    parts: int
    origin: Origin
    recorded_at: datetime
    event_count: int
    deltas: list[UsageDelta]
    providers: list[ProviderDelta]
    version: int = 1
    by_app: bool = False


# --- subscription.status (→ gateways; compacted, keyed by subscription) ----------------------------------------------


class Remaining(Struct, frozen=True):
    """What a subscription may still use; None means no limit applies."""

    requests: int | None = None
    tokens: int | None = None
    credits: str | None = None


class ExhaustedKey(Struct, frozen=True):
    """An API key that has used up its requests of one UTC day. On any other day it may be used."""

    api_key_id: UUID
    day: date


class SubscriptionStatus(Struct, frozen=True):
    """The state of one subscription as of `as_of`. A reader ignores a message whose `version` is below one it has seen.

    `exhausted_keys` are those of the present UTC day, and of the next one where gateways' clocks were ahead.
    """

    subscription: UUID
    status: str
    reasons: list[str]
    remaining: Remaining
    reset_at: datetime | None
    as_of: datetime
    version: int
    exhausted_keys: list[ExhaustedKey] = []


# --- billing.events (billing → anyone; the bodies of webhooks) --------------------------------------------------------


class BillingEvent(Struct, frozen=True):
    """A CloudEvents 1.0 event such as `tallystick.invoice.issued.v1`; `id` is stable over redelivery."""

    id: str
    type: str
    time: datetime
    subject: str
    data: dict[str, Any]
    source: str = "tallystick/billing"
    specversion: str = SPEC_VERSION
    datacontenttype: str = "application/json"


def youngest_event(deltas: Iterable[UsageDelta]) -> datetime | None:
    """Return when the last of the events behind deltas was; None where nothing says it."""
    return max((delta.last_event_at for delta in deltas if delta.last_event_at), default=None)


def reservations_named(messages: Iterable[UsageRecorded]) -> list[tuple[UUID, UUID]]:
    """Return the reservations that messages' usage names, each with the subscription that used, sorted."""
    named = {
        (delta.subscription_id, reservation)
        for message in messages
        for delta in message.deltas
        if delta.reservations
        for reservation in delta.reservations
    }
    return sorted(named)


encode = msgspec.json.Encoder(decimal_format="string").encode
_recorded = msgspec.json.Decoder(UsageRecorded)


def decode_recorded(value: bytes) -> UsageRecorded:
    """Decode a `usage.recorded` message. Raises `msgspec.ValidationError` for one that is not of this version."""
    message = _recorded.decode(value)
    if message.version != 1:
        raise msgspec.ValidationError(
            f"usage.recorded version {message.version} is not known here (1 is): upgrade the consumers before ingest"
        )
    return message
