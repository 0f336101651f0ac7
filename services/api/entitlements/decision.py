"""May this request go, why not, and what remains (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Final, Literal, TypeAlias
from uuid import UUID

from services.api.limits import Taken
from shared.contracts import SubscriptionStatus

USABLE: Final = frozenset({"active", "trialing"})
RATE_LIMITED: Final = "rate_limited"
KEY_INACTIVE: Final = "key_inactive"
KEY_DAY: Final = "key_requests_per_day"

Source: TypeAlias = Literal["database", "status"]


@dataclass(frozen=True, slots=True)
class Held:
    """What open reservations hold: of a subscription's quotas, and of its user's credits."""

    reservations: int = 0
    requests: int = 0
    tokens: int = 0
    credits: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Left:
    """What may still be used or reserved; None: no limit applies. `concurrent`: reservations at once."""

    requests: int | None = None
    tokens: int | None = None
    credits: Decimal | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A subscription as the database had it at `as_of`. `credits` is the balance of who prepays, None for others."""

    subscription_id: UUID
    user_id: UUID
    status: str
    reasons: Sequence[str]
    version: int
    currency: str
    quota_requests: int | None
    quota_tokens: int | None
    used_requests: int
    used_tokens: int
    concurrent: int | None
    credits: Decimal | None
    reset_at: datetime | None
    held: Held
    as_of: datetime

    @property
    def left(self) -> Left:
        """What remains of each limit, after what is held; never less than nothing."""
        return Left(
            _left(self.quota_requests, max(0, self.used_requests) + self.held.requests),
            _left(self.quota_tokens, max(0, self.used_tokens) + self.held.tokens),
            None if self.credits is None else max(Decimal(0), self.credits - self.held.credits),
            _left(self.concurrent, self.held.reservations),
        )


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. `active`: neither revoked nor expired. `used_today` are its requests of the UTC day, as far as they are counted."""

    id: UUID
    subscription_id: UUID
    active: bool
    per_minute: int | None
    per_day: int | None
    used_today: int

    @property
    def left_today(self) -> int | None:
        return _left(self.per_day, self.used_today)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. `reasons` are all there are; `held` is not known from a status. `minute` is of the key's limit by minute."""

    subscription_id: UUID
    status: str
    reasons: tuple[str, ...]
    left: Left
    held: Held | None
    reset_at: datetime | None
    as_of: datetime
    source: Source
    key: Key | None = None
    minute: Taken | None = None

    @property
    def allowed(self) -> bool:
        return not self.reasons


def decide(standing: Standing, key: Key | None = None, minute: Taken | None = None) -> Verdict:
    """Decide by what the database said."""
    reasons = [*_of_status(standing.status, standing.reasons)]
    left = standing.left
    found = {
        "quota_requests": left.requests == 0,
        "quota_tokens": left.tokens == 0,
        "credits_exhausted": left.credits == 0,
        "concurrent_requests": left.concurrent == 0,
    }
    reasons += [reason for reason, is_so in found.items() if is_so and reason not in reasons]
    return Verdict(
        standing.subscription_id, standing.status, (*reasons, *key_reasons(key, minute)), left, standing.held, standing.reset_at,
        standing.as_of, "database", key, minute,
    )  # fmt: skip


def decide_by_status(
    status: SubscriptionStatus, key_id: UUID | None, key: Key | None, minute: Taken | None, today: date
) -> Verdict:
    """Decide by the last message about a subscription, for a key of which perhaps only the id is known. `today` is of UTC."""
    reasons = [*_of_status(status.status, status.reasons), *key_reasons(key, minute)]
    if KEY_DAY not in reasons and any(e.api_key_id == key_id and e.day == today for e in status.exhausted_keys):
        reasons.append(KEY_DAY)
    remaining = status.remaining
    left = Left(
        remaining.requests, remaining.tokens, None if remaining.credits is None else max(Decimal(0), Decimal(remaining.credits))
    )  # fmt: skip
    return Verdict(
        status.subscription, status.status, tuple(reasons), left, None, status.reset_at, status.as_of, "status", key, minute
    )  # fmt: skip


def key_reasons(key: Key | None, minute: Taken | None) -> list[str]:
    """Return why a key may not be used."""
    found = {
        KEY_INACTIVE: key is not None and not key.active,
        KEY_DAY: key is not None and key.left_today == 0,
        RATE_LIMITED: minute is not None and not minute.allowed,
    }
    return [reason for reason, is_so in found.items() if is_so]


def _of_status(status: str, reasons: Sequence[str]) -> list[str]:
    if status == "suspended":
        return sorted(reasons) or [status]
    return [] if status in USABLE else [status]


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)
