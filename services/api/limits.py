"""How often one may ask (pure): a token bucket for each credential, and one for each address that credentials are refused to.

In the memory of one process: N processes of the API allow N times as much.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from services.api.problems import RATE_LIMITED, Problem

if TYPE_CHECKING:
    from services.api.auth.principal import Principal

REMEMBERED: Final = 100_000
"""Most buckets of one kind that are kept. The one that was used longest ago goes first: by then it is full again, as a new one is."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` on average, `burst` at once. A rate of 0 is no limit."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one request: how many more may follow at once, and in how many seconds the bucket is full again."""

    allowed: bool
    limit: int
    remaining: int
    full_in: float
    wait: float
    """Seconds until the next request is allowed; 0 for one that was."""

    @property
    def headers(self) -> dict[str, str]:
        """The RateLimit-… headers of the answer."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.full_in)),
        }


@dataclass(slots=True)
class Buckets:
    """Token buckets of one rate, by name. Times are seconds of any clock; one that is set back gives nothing and takes nothing."""

    rate: Rate
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, name: str, now: float) -> Taken:
        """Take one token, if there is a whole one."""
        level = self._level(name, now)
        allowed = level >= 1
        if allowed:
            level -= 1
        self._levels[name] = (level, now)
        self._levels.move_to_end(name)
        while len(self._levels) > REMEMBERED:
            self._levels.popitem(last=False)
        wait = 0.0 if allowed else (1 - level) / self.rate.per_second
        return Taken(allowed, self.rate.burst, int(level), (self.rate.burst - level) / self.rate.per_second, wait)

    def wait(self, name: str, now: float) -> float:
        """Return in how many seconds there is a whole token; takes none."""
        return max(0.0, 1 - self._level(name, now)) / self.rate.per_second

    def _level(self, name: str, now: float) -> float:
        level, at = self._levels.get(name, (float(self.rate.burst), now))
        return min(float(self.rate.burst), level + max(0.0, now - at) * self.rate.per_second)


class RateLimits:
    """The limits of one process. `gateways` is the rate of credentials with the role service, `refusals` that of an address."""

    def __init__(self, users: Rate, gateways: Rate, refusals: Rate) -> None:
        self._users, self._gateways = _buckets(users), _buckets(gateways)
        self._refusals = _buckets(refusals)

    def admit(self, principal: Principal, now: float) -> dict[str, str]:
        """Count a request; return the headers that tell of it. Raises `Problem` (429) beyond the credential's rate."""
        buckets = self._gateways if "service" in principal.roles else self._users
        if buckets is None:
            return {}
        taken = buckets.take(str(principal.key_id or principal.session_id or principal.user_id), now)
        if taken.allowed:
            return taken.headers
        raise _too_many(
            f"this credential may ask {buckets.rate.per_second:g} times a second, {buckets.rate.burst} at once",
            taken.wait,
            taken.headers,
        )

    def refused(self, address: str, now: float) -> None:
        """Count a credential that was refused to an address."""
        if self._refusals is not None:
            self._refusals.take(network_of(address), now)

    def check_address(self, address: str, now: float) -> None:
        """Raise `Problem` (429) while so many credentials were refused to an address that no unknown one is looked up for it."""
        if self._refusals is not None and (wait := self._refusals.wait(network_of(address), now)):
            raise _too_many("too many credentials from this address were not valid", wait, {})


def network_of(address: str) -> str:
    """Return what stands for one client: an IPv4 address, the /64 of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _buckets(rate: Rate) -> Buckets | None:
    return Buckets(rate) if rate.per_second > 0 else None


def _too_many(what: str, wait: float, headers: dict[str, str]) -> Problem:
    seconds = max(1, math.ceil(wait))
    return Problem(RATE_LIMITED, f"{what}: ask again in {seconds} s", headers={**headers, "Retry-After": str(seconds)})
