"""Whose usage it is: the pure decision over what the database knows."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.ingest.acceptance import Reason, Rejected
from services.ingest.attribution import Attribution, Owner, Unknown, _attribute, _Ids, _parse

ALICE, BOB, NOBODY = UUID(int=1), UUID(int=2), UUID(int=99)
KEY_OF_ALICE, KEY_OF_BOB, SECOND_OF_ALICE = UUID(int=11), UUID(int=12), UUID(int=13)
BY_ID = {KEY_OF_ALICE: (KEY_OF_ALICE, ALICE), KEY_OF_BOB: (KEY_OF_BOB, BOB), SECOND_OF_ALICE: (SECOND_OF_ALICE, ALICE)}
BY_HASH = {"hash-alice": (KEY_OF_ALICE, ALICE), "hash-bob": (KEY_OF_BOB, BOB)}


def attribute(subject: UUID | None = None, key: UUID | None = None, key_hash: str | None = None) -> Attribution:
    return _attribute(_Ids(subject, key, key_hash), {ALICE, BOB}, BY_ID, BY_HASH)


@pytest.mark.parametrize(
    ("named", "owner"),
    [
        ((ALICE, None, None), Owner(ALICE, None)),
        ((None, KEY_OF_BOB, None), Owner(BOB, KEY_OF_BOB)),
        ((None, None, "hash-alice"), Owner(ALICE, KEY_OF_ALICE)),
        ((ALICE, SECOND_OF_ALICE, None), Owner(ALICE, SECOND_OF_ALICE)),
        ((ALICE, KEY_OF_ALICE, "hash-alice"), Owner(ALICE, KEY_OF_ALICE)),
    ],
)
def test_whatever_is_named_leads_to_the_owner(named: tuple[UUID | None, UUID | None, str | None], owner: Owner) -> None:
    assert attribute(*named) == owner


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ((NOBODY, None, None), "unknown_subscription"),
        ((None, NOBODY, None), "unknown_api_key"),
        ((None, None, "?"), "unknown_api_key"),
        ((ALICE, NOBODY, None), "unknown_api_key"),
        ((None, KEY_OF_ALICE, "?"), "unknown_api_key"),
    ],
)
def test_who_is_not_known_yet_is_waited_for(named: tuple[UUID | None, UUID | None, str | None], reason: str) -> None:
    assert attribute(*named) == Unknown(reason, *named)


@pytest.mark.parametrize(
    "named",
    [
        (ALICE, KEY_OF_BOB, None),
        (ALICE, None, "hash-bob"),
        (None, KEY_OF_ALICE, "hash-bob"),
        (ALICE, SECOND_OF_ALICE, "hash-alice"),
        (NOBODY, KEY_OF_BOB, None),
    ],
)
def test_names_that_contradict_each_other_are_refused(named: tuple[UUID | None, UUID | None, str | None]) -> None:
    found = attribute(*named)

    assert isinstance(found, Rejected)
    assert found.reason == Reason.KEY_MISMATCH


def test_empty_names_are_no_names() -> None:
    assert _parse(("", "", "")) == _Ids(None, None, None)
    found = attribute()
    assert isinstance(found, Rejected)
    assert found.reason == Reason.NOBODY_NAMED


@pytest.mark.parametrize("name", [("joe", None, None), (None, "sk-live-1", None), ("019a2f6e", None, "hash")])
def test_what_is_no_uuid_is_refused_with_what_to_send_instead(name: tuple[str | None, str | None, str | None]) -> None:
    found = _parse(name)

    assert isinstance(found, Rejected)
    assert found.reason == Reason.INVALID_VALUE
    assert "send data.api_key_hash if you know only the hash" in found.detail
