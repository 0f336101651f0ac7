"""Rate limits: what a bucket lets through, and who shares one."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.auth.principal import Principal
from services.api.limits import Buckets, Rate, RateLimits, network_of
from services.api.problems import Problem

OFF = Rate(0, 1)


def principal(number: int, *roles: str) -> Principal:
    return Principal(UUID(int=number), "somebody", frozenset(roles))


@given(
    per_second=st.floats(0.1, 1_000),
    burst=st.integers(1, 100),
    pauses=st.lists(st.floats(0, 5), max_size=200),
)
def test_no_more_passes_than_the_burst_and_what_the_time_brings(
    per_second: float, burst: int, pauses: list[float]
) -> None:
    buckets, now, passed = Buckets(Rate(per_second, burst)), 0.0, 0
    for pause in pauses:
        now += pause
        passed += buckets.take("one", now).allowed
    assert passed <= burst + per_second * now + 1e-6
    assert passed >= min(len(pauses), burst)


@given(per_second=st.floats(0.1, 1_000), burst=st.integers(1, 20), later=st.floats(0, 1))
def test_who_waits_as_long_as_told_is_let_in(per_second: float, burst: int, later: float) -> None:
    buckets = Buckets(Rate(per_second, burst))
    for _ in range(burst):
        assert buckets.take("one", 100).allowed
    refused = buckets.take("one", 100)
    assert not refused.allowed
    assert buckets.take("one", 100 + refused.wait + 1e-6 + later).allowed


def test_a_clock_that_is_set_back_neither_gives_nor_takes() -> None:
    buckets = Buckets(Rate(1, 2))
    assert [buckets.take("one", at).allowed for at in (100, 50, 50, 50.5, 51)] == [True, True, False, False, True]


def test_each_credential_has_its_own_rate_and_gateways_another() -> None:
    limits = RateLimits(users=Rate(1, 1), gateways=Rate(10, 2), refusals=OFF)
    for user in (principal(1), principal(2), principal(3, "service"), principal(3, "service")):
        assert limits.admit(user, 0)["RateLimit-Limit"] == ("2" if user.roles else "1")
    for user, wait in ((principal(1), "1"), (principal(3, "service"), "1")):
        with pytest.raises(Problem, match="ask again in 1 s") as refused:
            limits.admit(user, 0)
        assert refused.value.kind.status == 429
        assert refused.value.headers["Retry-After"] == wait
        assert refused.value.headers["RateLimit-Remaining"] == "0"


def test_an_address_is_refused_once_too_many_credentials_of_it_were() -> None:
    limits = RateLimits(users=OFF, gateways=OFF, refusals=Rate(0.5, 2))
    for address in ("2001:db8::1", "2001:db8::2"):  # one client has a whole network of these
        limits.check_address(address, 0)
        limits.refused(address, 0)
    with pytest.raises(Problem, match="too many credentials from this address were not valid: ask again in 2 s"):
        limits.check_address("2001:db8::3", 0)
    limits.check_address("2001:db8:0:1::1", 0)
    limits.check_address("2001:db8::3", 2)


def test_a_rate_of_0_is_no_limit() -> None:
    limits = RateLimits(OFF, OFF, OFF)
    for _ in range(1_000):
        assert limits.admit(principal(1), 0) == {}
        limits.refused("10.0.0.1", 0)
    limits.check_address("10.0.0.1", 0)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_what_stands_for_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
