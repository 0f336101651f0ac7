"""Traffic shaped like that of real LLM gateways, and what a correct pipeline must make of it (pure, seeded).

The generator keeps its own books (`Expected`): they are computed from what is sent, never from what is stored, so that
comparing them with the database is a proof and not a tautology. Shapes: bursts (a Poisson process that switches between
calm and busy), zipf-like subscriptions, lognormal prompts and answers, and all else that gateways send: resends, late,
out-of-order and broken records.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Final

from services.cli.demo.books import Expected
from services.cli.demo.events import Event, Events, Model, Subscriber
from services.cli.demo.malformed import MALFORMED, conflicting, malformed
from services.cli.demo.record import Record
from shared.period import Period

DUPLICATES: Final = 0.01
CONFLICTS: Final = 0.000_2
STRANGERS: Final = 0.001
LATE: Final = 0.01
OUT_OF_ORDER: Final = 0.05
"""Shares of the valid events: resent, contradicted, of unknown subscriptions, hours late, out of order."""

_LATEST_SECONDS = 36 * 3_600
_DISORDER_SECONDS = 300
_RESENT_WITHIN = 500


@dataclass(frozen=True, slots=True)
class World:
    """Who sends. `latecomers` become known only midway, `strangers` never do: their events are held until then."""

    subscribers: Sequence[Subscriber]
    models: Sequence[Model]
    latecomers: Sequence[Subscriber] = ()
    strangers: Sequence[Subscriber] = ()
    libraries: Sequence[str] = ("/mongodb/docs", "/vercel/next.js", "/postgres/docs")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much traffic (valid, distinct events), and when it happened: `shares` gives each period its part, in this order.

    `now` bounds event times from above; `run` names this traffic, so that two runs do not share event ids. `late` of the events are kept
    back: they happened in the first of the periods, and are sent when it has been invoiced.
    """

    events: int
    seed: int
    run: str
    now: datetime
    shares: Sequence[tuple[Period, float]]
    late: int = 0

    @property
    def in_time(self) -> int:
        """How many events are not kept back."""
        return self.events - self.late


class Traffic:
    """Draws the records of one run; `expected` grows with what has been drawn."""

    def __init__(self, plan: Plan, world: World) -> None:
        self._plan, self._world = plan, world
        self.expected = Expected()
        self._rng = random.Random(plan.seed)
        self._events = Events(self._rng, plan.run, world.models, world.libraries)
        self._everyone = [*world.subscribers, *world.latecomers]
        self._rng.shuffle(self._everyone)
        self._weights = list(accumulate(1 / (rank + 3) ** 1.05 for rank in range(len(self._everyone))))
        self._known = frozenset(s.subscription_id for s in world.subscribers)
        self._recent: deque[Record] = deque(maxlen=_RESENT_WITHIN)
        self._settled: deque[Record] = deque(maxlen=_RESENT_WITHIN)
        self._first: dict[str, Event] = {}
        self._now = plan.now.timestamp()

    def records(self) -> Iterator[Record]:
        """Yield everything that is to be published, in the order of publishing."""
        extras = self._extras()
        for number, time in enumerate(self._times()):
            yield self._valid(time)
            for kind in extras.get(number, ()):
                yield self._extra(kind)

    def corrections(self, subscription_id: str) -> Iterator[Record]:
        """Yield what comes when the first period is invoiced: events of a subscription that were kept back, and a record by which a
        gateway takes back the first one of it that was sent."""
        subscriber = next(s for s in self._everyone if s.subscription_id == subscription_id)
        end = self._plan.shares[0][0].end.timestamp()
        for _ in range(self._plan.late):
            yield self._enter(self._events.draw(subscriber, end - 1 - self._rng.random() * _LATEST_SECONDS / 2))
        first = self._first.get(subscription_id)
        if first is not None:
            self.expected.take_back(
                subscription_id,
                error=first.error,
                request_tokens=first.request_tokens,
                response_tokens=first.response_tokens,
                cached_tokens=first.cached_tokens,
            )
            yield self._events.take_back(first, self._now)

    def _times(self) -> Iterator[float]:
        left = self._plan.in_time
        *earlier, (last, _) = self._plan.shares
        for period, share in earlier:
            count = min(left, round(self._plan.in_time * share))
            left -= count
            yield from arrival_times(self._rng, count, period)
        yield from arrival_times(self._rng, left, last)

    def _extras(self) -> dict[int, list[str]]:
        """Return what is sent besides the valid events, by the number of the event that it follows."""
        events, extras = self._plan.in_time, dict[int, list[str]]()
        counts = dict.fromkeys(MALFORMED, max(1, events // 10_000)) | {
            "duplicate": round(events * DUPLICATES),
            "conflict": max(2, round(events * CONFLICTS)),
            "stranger": max(3, round(events * STRANGERS)) if self._world.strangers else 0,
        }
        for kind, count in counts.items():
            for _ in range(count):
                extras.setdefault(self._rng.randrange(events), []).append(kind)
        return extras

    def _valid(self, time: float) -> Record:
        chance = self._rng.random()
        if chance < LATE:
            time -= self._rng.random() * _LATEST_SECONDS
        elif chance < LATE + OUT_OF_ORDER:
            time -= self._rng.random() * _DISORDER_SECONDS
        subscriber = self._rng.choices(self._everyone, cum_weights=self._weights)[0]
        event = self._events.draw(subscriber, min(time, self._now))
        self._first.setdefault(event.subscription_id, event)
        self._enter(event)
        self._recent.append(event.record)
        if event.subscription_id in self._known:  # of two held events, attribution may well take the second first
            self._settled.append(event.record)
        return event.record

    def _enter(self, event: Event) -> Record:
        """Enter an event into the books; return its record."""
        self.expected.accept(
            event.subscription_id,
            error=event.error,
            request_tokens=event.request_tokens,
            response_tokens=event.response_tokens,
            cached_tokens=event.cached_tokens,
        )
        return event.record

    def _extra(self, kind: str) -> Record:
        match kind:
            case "duplicate":
                self.expected.duplicate()
                return self._rng.choice(self._recent)
            case "conflict" if self._settled:
                self.expected.reject(kind)
                return conflicting(self._rng.choice(self._settled))
            case "stranger":
                self.expected.hold()
                return self._events.draw(self._rng.choice(self._world.strangers), self._now - 60).record
            case _:
                kind = "not JSON" if kind == "conflict" else kind
                self.expected.reject(kind)
                subscription = self._everyone[0].subscription_id
                return malformed(kind, self._events.next_id(), subscription, self._plan.now)


def arrival_times(rng: random.Random, count: int, period: Period) -> list[float]:
    """Return `count` ascending POSIX times within `period`, in bursts: busy stretches are rarer, but hold most events."""
    gaps: list[float] = []
    while len(gaps) < count:
        rate = rng.choice((1.0, 1.0, 1.0, 12.0))
        stretch = int(rng.expovariate(1 / (30 * rate))) + 1
        gaps.extend(rng.expovariate(rate) for _ in range(stretch))
    times = list(accumulate(gaps[:count]))
    start, width = period.start.timestamp(), period.duration.total_seconds()
    return [start + time / times[-1] * width * 0.999_999 for time in times]
