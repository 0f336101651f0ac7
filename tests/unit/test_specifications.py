"""The published specifications are what they say they are: OpenAPI 3.1 and AsyncAPI 3."""

from __future__ import annotations

from typing import Any

import jsonschema
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

from services.api.app import make_app
from services.api.problems import SCHEMA
from shared import contracts
from shared.asyncapi import CHANNELS, asyncapi_document


def test_the_asyncapi_document_is_one_and_knows_every_topic() -> None:
    document = asyncapi_document("1.2.3")
    ApplicationSchema.model_validate(document)
    topics = {
        value
        for name, value in vars(contracts).items()
        if name.isupper() and isinstance(value, str) and value.count(".") == 1
    }
    assert topics - {"1.0"} == set(CHANNELS)
    for message in document["components"]["messages"].values():
        payload = message["payload"]
        jsonschema.Draft202012Validator.check_schema(payload.get("schema", payload))


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return every operation with a name for messages."""
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_says_what_it_does_and_how_it_refuses() -> None:
    document = make_app().openapi()
    assert document["openapi"].startswith("3.1.")
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names)), "an operation's id is its function's name: two functions share one"
    for name, operation in operations(document):
        assert operation.get("description"), f"{name}: its function has no docstring"
        assert operation.get("tags"), f"{name}: it is in no chapter of the reference"
        refusal = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert refusal["required"] == SCHEMA["required"], name


def test_what_a_client_sends_has_no_fields_that_are_overlooked() -> None:
    document = make_app().openapi()
    schemas = document.get("components", {}).get("schemas", {})
    for name, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            reference = content["schema"].get("$ref", "")
            if media_type == "application/json" and reference:
                body = schemas[reference.rpartition("/")[2]]
                assert body.get("additionalProperties") is False, (
                    f"{name}: derive its body from services.api.fields.Body"
                )
