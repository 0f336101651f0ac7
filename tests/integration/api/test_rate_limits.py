"""How often one may ask: each credential for itself, and an address whose credentials are refused."""

from __future__ import annotations

from datetime import timedelta

from tests.integration.api.facts import Customer, Facts
from tests.integration.api.kafka import Way, way


async def statuses(api: Way, who: Customer, count: int) -> list[int]:
    return [(await api.client.get("/api/v1/me", headers=who.headers)).status_code for _ in range(count)]


async def test_who_asks_too_often_is_told_when_to_ask_again(database: str, facts: Facts) -> None:
    ada, bob, gateway = await facts.customer(), await facts.customer(), await facts.customer("service")
    rates = {"api_requests_per_second": 0.5, "api_requests_burst": 2, "api_gateway_requests_per_second": 0}
    async with way(database, "127.0.0.1:1", "", facts.clock, **rates) as api:
        first = await api.client.get("/api/v1/me", headers=ada.headers)
        told = [first.headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "reset")]
        assert told == ["2", "1", "2"]
        assert await statuses(api, ada, 1) == [200]
        refused = await api.client.get("/api/v1/me", headers=ada.headers)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:tallystick:problem:rate-limited")
        assert (refused.headers["retry-after"], refused.headers["ratelimit-remaining"]) == ("2", "0")
        assert await statuses(api, bob, 1) == [200]
        assert await statuses(api, gateway, 5) == [200] * 5
        facts.clock.at += timedelta(seconds=2)
        assert await statuses(api, ada, 2) == [200, 429]


async def test_guessing_keys_ends_soon_and_locks_out_nobody_who_is_known(database: str, facts: Facts) -> None:
    ada, new = await facts.customer(), await facts.customer()
    async with way(database, "127.0.0.1:1", "", facts.clock, api_refusals_per_minute=2) as api:
        assert await statuses(api, ada, 1) == [200]
        guesses = [Customer(ada.user_id, ada.subscription_id, ada.key_id, f"tsk_{'x' * 40}{n}") for n in range(3)]
        assert [await statuses(api, guess, 1) for guess in guesses] == [[401], [401], [429]]
        assert await statuses(api, new, 1) == [429], "it cannot be told from a guess"
        assert await statuses(api, ada, 1) == [200]
        facts.clock.at += timedelta(seconds=30)
        assert await statuses(api, new, 1) == [200]
