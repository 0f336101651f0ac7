"""The AsyncAPI 3.0 document of what crosses Kafka, made from the contracts (pure): `tallystick schema asyncapi`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from shared import contracts
from shared.contracts import (
    BILLING_EVENTS,
    SUBSCRIPTION_STATUS,
    USAGE_DEAD_LETTER,
    USAGE_EVENTS,
    USAGE_RECORDED,
    usage_event_schema,
)
from shared.corrections import usage_amend_schema, usage_void_schema

_JSON_SCHEMA: Final = "application/schema+json;version=draft-2020-12"
_ID: Final = {"type": "string", "format": "uuid"}

CHANNELS: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    USAGE_EVENTS: (
        "What gateways report. The key is the subscription's id, so that a subscription stays in order in one partition.",
        ("usageEvent", "usageVoid", "usageAmend"),
        "receive",
    ),
    USAGE_RECORDED: ("What each committed batch adds, on the partition of its records.", ("usageRecorded",), "send"),
    USAGE_DEAD_LETTER: (
        "Records that were refused, unchanged; reason and origin are in the headers.",
        ("deadLetter",),
        "send",
    ),
    SUBSCRIPTION_STATUS: (
        "The state of every subscription, compacted by its id: who reads it from the beginning knows all.",
        ("subscriptionStatus",),
        "send",
    ),
    BILLING_EVENTS: ("What happened to invoices, credits, payments and quotas.", ("billingEvent",), "send"),
}
"""Of each topic: what it is for, its messages, and what Tallystick does with it: `receive` or `send`."""


def asyncapi_document(version: str) -> dict[str, Any]:
    """Return the document; `version` is that of the distribution."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tallystick",
            "version": version,
            "description": "What crosses Kafka. TALLYSTICK_KAFKA_TOPIC_PREFIX is put before each address.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            _camel(topic): {
                "address": topic,
                "description": description,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
            for topic, (description, messages, _) in CHANNELS.items()
        },
        "operations": {
            f"{action}{_camel(topic)[0].upper()}{_camel(topic)[1:]}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{_camel(topic)}"},
                "messages": [{"$ref": f"#/channels/{_camel(topic)}/messages/{name}"} for name in messages],
            }
            for topic, (_, messages, action) in CHANNELS.items()
        },
        "components": {"messages": _messages()},
    }


def _messages() -> dict[str, Any]:
    structs: dict[str, type[msgspec.Struct]] = {
        "usageRecorded": contracts.UsageRecorded,
        "subscriptionStatus": contracts.SubscriptionStatus,
        "billingEvent": contracts.BillingEvent,
    }
    keys = {"subscriptionStatus": _ID, "usageEvent": _ID, "usageVoid": _ID, "usageAmend": _ID}
    published = {
        "usageEvent": usage_event_schema(),
        "usageVoid": usage_void_schema(),
        "usageAmend": usage_amend_schema(),
    }
    schemas = published | {name: msgspec.json.schema(kind) for name, kind in structs.items()}
    result: dict[str, Any] = {
        name: {
            "name": name,
            "contentType": "application/cloudevents+json" if name in published else "application/json",
            "payload": {"schemaFormat": _JSON_SCHEMA, "schema": schema},
            **({"bindings": {"kafka": {"key": keys[name], "bindingVersion": "0.5.0"}}} if name in keys else {}),
        }
        for name, schema in schemas.items()
    }
    result["deadLetter"] = {
        "name": "deadLetter",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "contentEncoding": "binary"},
        "summary": "The record as it came; the headers tell its reason and origin.",
    }
    return result


def _camel(topic: str) -> str:
    first, *rest = topic.replace("-", ".").split(".")
    return first + "".join(word.capitalize() for word in rest)
