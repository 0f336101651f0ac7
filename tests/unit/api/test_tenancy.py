"""Events of a tenant's own key: subject, key and source are the credential's, whatever the payload says."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.events.tenancy import NotYours, Tenant, claim, signed
from shared.contracts import UsageEvent
from shared.corrections import AmendEvent, VoidEvent
from tests.unit.ingest.events import amend, judge, structured, void

ADA = Tenant(UUID("019a2f6e-0000-7000-8000-00000000000a"), UUID("019a2f70-0000-7000-8000-00000000000a"))
BOB = "019a2f6e-0000-7000-8000-00000000000b"


def signed_by_ada(value: bytes) -> dict[str, Any]:
    claimed = claim(value, ADA)
    assert claimed is not None
    return json.loads(signed(claimed, ADA))  # type: ignore[no-any-return]


def test_an_event_gets_the_subscription_and_the_key() -> None:
    found = signed_by_ada(structured(subject=..., traceparent="00-1", data={"own": 1}))
    assert found["subject"] == str(ADA.subscription_id)
    assert found["data"]["api_key_id"] == str(ADA.key_id)
    assert found["source"] == f"/subscriptions/{ADA.subscription_id}/gateways/eu-1"
    assert (found["traceparent"], found["data"]["own"], found["id"]) == ("00-1", 1, "req-1")
    assert isinstance(judge(json.dumps(found).encode()), UsageEvent)


@pytest.mark.parametrize("subject", [str(ADA.subscription_id), str(ADA.subscription_id).upper(), "", None])
def test_its_own_subscription_may_be_named(subject: str | None) -> None:
    assert signed_by_ada(structured(subject=subject))["subject"] == str(ADA.subscription_id)


@pytest.mark.parametrize(
    "value",
    [
        structured(subject=BOB),
        structured(subject="somebody"),
        structured(subject=..., data={"api_key_id": BOB}),
        structured(subject=..., data={"api_key_id": "a key"}),
        void("req-1", subject=BOB),
        amend("req-1", subject=BOB),
    ],
)
def test_others_may_not_be_named(value: bytes) -> None:
    with pytest.raises(NotYours, match="leave"):
        claim(value, ADA)


@pytest.mark.parametrize("value", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_event_is_left_to_the_rules_of_ingest(value: bytes) -> None:
    assert claim(value, ADA) is None


@pytest.mark.parametrize("data", [7, None, [], "x"])
def test_data_of_a_wrong_type_stay_as_they_are(data: Any) -> None:
    document = json.loads(structured(subject=...)) | {"data": data}
    assert signed_by_ada(json.dumps(document).encode())["data"] == data


def test_a_hash_that_names_none_of_our_keys_is_kept_as_metadata() -> None:
    claimed = claim(structured(subject=..., data={"api_key_hash": "f00d", "metadata": {"region": "eu"}}), ADA)
    assert claimed is not None
    assert claimed.key_hash == "f00d"
    data = json.loads(signed(claimed, ADA))["data"]
    assert data["metadata"] == {"api_key_hash": "f00d", "region": "eu"}
    assert "api_key_hash" not in data


def test_corrections_reach_only_what_the_tenant_reported_itself() -> None:
    """A tenant that takes back `(source, id)` of its gateway takes back an event of its own source, which is none."""
    for value, kind in ((void("req-1", subject=...), VoidEvent), (amend("req-1", subject=...), AmendEvent)):
        found = judge(json.dumps(signed_by_ada(value)).encode())
        assert isinstance(found, kind), found
        assert found.source == f"/subscriptions/{ADA.subscription_id}/gateways/eu-1"
        assert found.subject == str(ADA.subscription_id)


@given(st.text(), st.text())
def test_different_sources_stay_different_and_signing_twice_changes_nothing(one: str, other: str) -> None:
    own = f"/subscriptions/{ADA.subscription_id}"
    if one != other and not (one.startswith(own) or other.startswith(own)):
        assert ADA.own_source(one) != ADA.own_source(other)
    assert ADA.own_source(ADA.own_source(one)) == ADA.own_source(one)
    assert ADA.own_source(one).startswith(own)
