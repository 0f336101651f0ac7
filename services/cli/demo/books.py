"""What a correct pipeline must make of the records that were sent (pure): kept while sending, never read from the database."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Usage:
    """Sums over valid, distinct events: requests, errors, and tokens of each kind; one that was taken back is in none of them."""

    requests: int = 0
    errors: int = 0
    request_tokens: int = 0
    response_tokens: int = 0
    cached_tokens: int = 0

    def add(
        self, *, error: bool, request_tokens: int, response_tokens: int, cached_tokens: int, times: int = 1
    ) -> None:
        """Add one event, or with `times` -1 take it off."""
        self.requests += times
        self.errors += times * error
        self.request_tokens += times * request_tokens
        self.response_tokens += times * response_tokens
        self.cached_tokens += times * cached_tokens

    def as_tuple(self) -> tuple[int, int, int, int, int]:
        """Return the sums in the order of the fields."""
        return self.requests, self.errors, self.request_tokens, self.response_tokens, self.cached_tokens


@dataclass(slots=True)
class Expected:
    """The books of one run. `rejected` counts by what was wrong with a record; `held` are events of strangers; `taken_back` are events that
    another one takes back: that one is a row of its own, and both sum to nothing."""

    published: int = 0
    duplicates: int = 0
    held: int = 0
    taken_back: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)
    by_subscription: dict[str, Usage] = field(default_factory=dict)

    def accept(
        self, subscription_id: str, *, error: bool, request_tokens: int, response_tokens: int, cached_tokens: int
    ) -> None:
        """Enter a valid event that was sent for the first time."""
        self.published += 1
        for usage in (self.usage, self.by_subscription.setdefault(subscription_id, Usage())):
            usage.add(
                error=error, request_tokens=request_tokens, response_tokens=response_tokens, cached_tokens=cached_tokens
            )

    def take_back(
        self, subscription_id: str, *, error: bool, request_tokens: int, response_tokens: int, cached_tokens: int
    ) -> None:
        """Enter an event that takes back a valid one that was entered before."""
        self.published += 1
        self.taken_back += 1
        for usage in (self.usage, self.by_subscription[subscription_id]):
            usage.add(
                error=error,
                request_tokens=request_tokens,
                response_tokens=response_tokens,
                cached_tokens=cached_tokens,
                times=-1,
            )

    def duplicate(self) -> None:
        """Enter an event that was sent before, byte for byte."""
        self.published += 1
        self.duplicates += 1

    def reject(self, kind: str) -> None:
        """Enter a record that must be quarantined."""
        self.published += 1
        self.rejected[kind] += 1

    def hold(self) -> None:
        """Enter a valid event of a subscription that nobody knows."""
        self.published += 1
        self.held += 1

    @property
    def inserted(self) -> int:
        """Rows that must be in the log."""
        return self.usage.requests + 2 * self.taken_back

    @property
    def quarantined(self) -> int:
        """Records that must be in quarantine."""
        return self.rejected.total()
