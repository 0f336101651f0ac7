"""May this request go, why not, and what remains."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.api.entitlements.decision import Held, Key, Left, Standing, decide, decide_by_status
from services.api.limits import Taken
from shared.contracts import ExhaustedKey, Remaining, SubscriptionStatus
from tests.unit.aggregator.facts import ALICE, BOB, NOON

KEY = Key(UUID(int=3), ALICE, active=True, per_minute=60, per_day=10, used_today=4)
FULL = Taken(False, 60, 0, 30, 12)
STANDING = Standing(
    ALICE, BOB, "active", (), 1, "USD", quota_requests=10, quota_tokens=None, used_requests=4, used_tokens=9,
    concurrent=3, credits=Decimal(20), reset_at=NOON, held=Held(1, 2, 5, Decimal(15)), as_of=NOON,
)  # fmt: skip


def standing(**fields: Any) -> Standing:
    return replace(STANDING, **fields)


def test_what_remains_is_less_what_is_held() -> None:
    verdict = decide(STANDING, KEY)
    assert verdict.allowed
    assert verdict.left == Left(4, None, Decimal(5), 2)
    assert (verdict.source, verdict.key and verdict.key.left_today) == ("database", 6)


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({"status": "suspended", "reasons": ["payment_overdue", "admin"]}, ("admin", "payment_overdue")),
        ({"status": "suspended", "reasons": ["quota_requests"], "used_requests": 10}, ("quota_requests",)),
        ({"status": "paused"}, ("paused",)),
        ({"status": "cancelled", "used_requests": 99}, ("cancelled", "quota_requests")),
        ({"used_requests": 8}, ("quota_requests",)),
        ({"quota_tokens": 14}, ("quota_tokens",)),
        ({"credits": Decimal(15)}, ("credits_exhausted",)),
        ({"held": Held(3, 0, 0)}, ("concurrent_requests",)),
        ({"status": "trialing"}, ()),
        ({"credits": None}, ()),
        ({"used_requests": -5}, ()),
    ],
)
def test_every_reason_is_named_once(changed: dict[str, Any], reasons: tuple[str, ...]) -> None:
    verdict = decide(standing(**changed))
    assert (verdict.reasons, verdict.allowed) == (reasons, not reasons)


def test_limits_of_the_key_are_reasons_too() -> None:
    spent = replace(KEY, active=False, used_today=11)
    assert decide(STANDING, spent, FULL).reasons == ("key_inactive", "key_requests_per_day", "rate_limited")


def test_a_status_answers_as_of_its_time() -> None:
    status = SubscriptionStatus(
        ALICE, "suspended", ["credits_exhausted"], Remaining(3, None, "0"), NOON, NOON - timedelta(hours=1), 7,
        [ExhaustedKey(KEY.id, NOON.date())],
    )  # fmt: skip
    verdict = decide_by_status(status, KEY.id, None, FULL, NOON.date())
    assert verdict.reasons == ("credits_exhausted", "rate_limited", "key_requests_per_day")
    assert verdict.left == Left(3, None, Decimal(0), None)
    assert (verdict.as_of, verdict.source, verdict.held) == (NOON - timedelta(hours=1), "status", None)
    assert decide_by_status(status, KEY.id, None, None, date(2026, 11, 15)).reasons == ("credits_exhausted",)
    assert decide_by_status(status, UUID(int=9), None, None, NOON.date()).reasons == ("credits_exhausted",)
