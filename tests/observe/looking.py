"""What tests ask of a Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import httpx

DEADLINE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus by its address."""

    address: str

    def query(self, expression: str) -> list[Any]:
        """Return the series of an instant query. Raises for one that Prometheus does not understand."""
        return self._get("query", query=expression)["result"]  # type: ignore[no-any-return]

    def names(self) -> set[str]:
        """Return the names of all series."""
        return set(self._get("label/__name__/values"))

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire, each with its service."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("service", ""))
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def up(self) -> dict[str, str]:
        """Return the health of each service that is asked."""
        return {target["labels"]["service"]: target["health"] for target in self._get("targets")["activeTargets"]}

    def _get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.address}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]


async def until(
    holds: Callable[[], bool], what: str, *, seconds: float = DEADLINE_SECONDS, said: Callable[[], object] = str
) -> float:
    """Wait until something holds; return the seconds that took. Fails, with what `said` returns, when it does not come to hold in time."""
    begun = monotonic()
    while not await asyncio.to_thread(holds):
        assert monotonic() - begun < seconds, f"not within {seconds:.0f} s: {what}; {said()}"
        await asyncio.sleep(POLL_SECONDS)
    return monotonic() - begun
