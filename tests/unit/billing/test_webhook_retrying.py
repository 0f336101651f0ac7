"""How long webhooks are tried, and when an endpoint has failed too long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from services.billing.notices.retrying import FIRST_DELAY, LONGEST_DELAY, Attempted, Policy, delay, judge, why_disable
from services.billing.notices.signing import Keyring, SecretUnreadable, headers, new_key, new_secret
from shared.errors import ConfigurationError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FAILED = Attempted("refused", timedelta(0), 500, "HTTP 500")

dice = st.floats(0, 1, exclude_max=True)


@given(failures=st.integers(1, 1_000), dice=dice)
def test_delays_grow_up_to_a_limit_and_are_spread(failures: int, dice: float) -> None:
    waits = delay(failures, dice)
    assert min(LONGEST_DELAY, FIRST_DELAY * 4 ** min(failures - 1, 9)) / 2 <= waits <= LONGEST_DELAY
    assert delay(failures + 1, dice) >= waits
    assert delay(failures, 0) < delay(failures, 0.999)


def test_twelve_attempts_take_about_two_days() -> None:
    total = sum((delay(failures, 0.5) for failures in range(1, 12)), timedelta(0))
    assert timedelta(hours=36) < total < timedelta(days=3)


@given(failures=st.integers(1, 40), dice=dice, limit=st.integers(1, 30))
def test_a_delivery_is_tried_so_often_and_then_given_up(failures: int, dice: float, limit: int) -> None:
    verdict = judge(FAILED, failures, NOW, Policy(attempts=limit), dice)
    assert (verdict.status == "failed") == (failures >= limit)
    assert (verdict.next_attempt_at is not None) == (failures < limit)


def test_an_endpoint_may_ask_for_more_time_but_not_for_less() -> None:
    def waits(seconds: int) -> timedelta:
        attempted = Attempted("refused", timedelta(0), 503, retry_after=timedelta(seconds=seconds))
        at = judge(attempted, 1, NOW, Policy(), 0.0).next_attempt_at
        assert at is not None
        return at - NOW

    assert waits(600) == timedelta(seconds=600)
    assert waits(0) == FIRST_DELAY / 2


def test_an_endpoint_is_disabled_after_failing_long_and_often() -> None:
    policy = Policy(disable_after=24 * HOUR)
    assert why_disable(FAILED, 4, NOW - 48 * HOUR, NOW, policy) is None
    assert why_disable(FAILED, 50, NOW - 23 * HOUR, NOW, policy) is None
    assert (
        why_disable(FAILED, 5, NOW - 24 * HOUR, NOW, policy)
        == "5 attempts since 2026-11-20 12:00 UTC failed, the last: HTTP 500"
    )


def test_an_endpoint_that_is_gone_is_disabled_at_once() -> None:
    assert why_disable(Attempted("refused", timedelta(0), 410), 1, NOW, NOW, Policy()) == "it answered 410 Gone"


@given(body=st.text(max_size=200))
def test_the_official_library_verifies_our_signatures(body: str) -> None:
    secret, old = new_secret(), new_secret()
    signed = headers("msg-1", datetime.now(UTC), body.encode(), [secret, old])
    for known in (secret, old):
        Webhook(known).verify(body.encode(), signed, json_parse=False)


def test_a_secret_can_be_read_with_any_of_the_keys_and_only_with_those() -> None:
    first, second, secret = new_key(), new_key(), new_secret()
    sealed = Keyring(first).seal(secret)
    assert secret.encode() not in sealed
    both = Keyring(f"{second}, {first}")
    assert both.open(sealed) == secret
    assert Keyring(second).open(both.reseal(sealed)) == secret
    with pytest.raises(SecretUnreadable, match="rotate the endpoint's secret"):
        Keyring(Fernet.generate_key().decode()).open(sealed)


@pytest.mark.parametrize("keys", ["x", "", ","])
def test_a_key_that_is_none_is_refused(keys: str) -> None:
    with pytest.raises(ConfigurationError, match="TALLYSTICK_BILLING_WEBHOOK_KEYS does not hold Fernet keys"):
        Keyring(keys)
