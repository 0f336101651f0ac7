"""The records of a run, drawn from its seed (pure): valid events, and everything else that clients send.

Drawn fast, for ten million of them: an event is a template that is filled in. Every record is entered in the books when
it is drawn, and all that is drawn is published.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgspec

from services.cli.chaos.books import Books, Figures, Kind
from services.cli.chaos.poison import POISON, Refused
from services.cli.chaos.world import ITEMS, POWER_LEVELS, Subscription, World
from services.cli.demo.record import Record
from shared.contracts import SPEC_VERSION, USAGE_TYPE
from shared.corrections import AMEND_TYPE, VOID_TYPE

LATE: Final = 0.01
OUT_OF_ORDER: Final = 0.05
FAILED: Final = 0.03
RESENT: Final = 0.008
RESENT_LONG_AFTER: Final = 0.002
CONFLICTING: Final = 0.000_6
CORRECTED: Final = 0.001
POISONED: Final = 0.003
OF_STRANGERS: Final = 0.000_5
"""Shares of the events."""

_LATEST_SECONDS = 30 * 3_600
_DISORDER_SECONDS = 300
_DAY = 86_400
_KEPT = 4_000
_HEAD = f'{{"specversion":"{SPEC_VERSION}","type":"{USAGE_TYPE}","source":"'


class _Sent(NamedTuple):
    """An event that was sent, by which it can be sent again or contradicted."""

    record: Record
    subscription: Subscription
    id: str
    time: str
    kind: Kind
    figures: Figures


class Traffic:
    """Draws records; `books` grows with each. `share` of the way through, event times have reached that share of the days."""

    def __init__(self, world: World, seed: int, events: int, *, prefix: str = "") -> None:
        """`prefix` keeps the ids of this traffic apart from those of another one."""
        self.world, self.books, self._prefix = world, Books(world), prefix
        self._rng = random.Random(seed)
        self._events = events
        everyone = world.of("known", "latecomer")
        self._rng.shuffle(everyone)
        self._everyone = everyone
        self._weights = list(accumulate(1 / (rank + 2) for rank in range(len(everyone))))
        self._strangers = world.of("stranger")
        self._start, self._now = world.start.timestamp(), world.now.timestamp()
        self._recent: deque[_Sent] = deque(maxlen=500)
        self._kept: list[_Sent] = []
        self._number = 0
        self._poison: list[str] = []
        self._corrected: set[str] = set()

    def records(self) -> Iterator[Record]:
        """Yield records without an end; times stay at the present once `events` are drawn."""
        random_, drawn = self._rng.random, 0
        span = self._now - 120 - self._start
        while True:
            drawn += 1
            time = self._start + span * min(1.0, drawn / self._events)
            chance = random_()
            if chance < LATE:
                time -= random_() * _LATEST_SECONDS
            elif chance < LATE + OUT_OF_ORDER:
                time -= random_() * _DISORDER_SECONDS
            yield self.event(max(time, self._start))
            yield from self._extras()

    def event(self, time: float, subscription: Subscription | None = None) -> Record:
        """Draw a valid event at the POSIX time `time`, of anybody or of `subscription`, and enter it."""
        random_ = self._rng.random
        who = subscription or self._rng.choices(self._everyone, cum_weights=self._weights)[0]
        item = who.item if random_() < 0.9 else 3
        sent = self._draw(who, item, time)
        self.books.accept(sent.kind, *sent.figures)
        if who.standing == "known":  # of two held events, attribution may well take the second first
            self._recent.append(sent)
            if len(self._kept) < _KEPT:
                self._kept.append(sent)
            elif random_() < 0.01:
                self._kept[int(random_() * _KEPT)] = sent
        return sent.record

    def announced_loss(self, time: float) -> Record:
        """Draw a valid event that will be lost: it is not entered here, but by whoever loses it."""
        return self._draw(self._everyone[0], 0, time).record

    def refused(self, time: float, reason: str, what: str) -> Record:
        """Draw a valid event that must be refused all the same, for `reason`, and enter it."""
        self.books.refuse(what, reason)
        return self._draw(self._everyone[0], 0, time).record

    def _draw(self, who: Subscription, item: int, time: float) -> _Sent:
        random_ = self._rng.random
        self._number += 1
        id_ = f"{self._prefix}{self._number:x}"
        is_tool = ITEMS[item].tool
        prompt = 3 + int(2_000 * random_() ** 3)
        answer = 0 if is_tool else 1 + int(800 * random_() ** 2)
        cached = int(prompt * random_()) if random_() < 0.2 else 0
        ok = random_() >= FAILED
        latency = 50 + int(3_000 * random_())
        when = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        by_key = who.key_hash and random_() < 0.1
        subject = "" if by_key else f'"subject":"{who.id}",'
        key = f',"api_key_hash":"{who.key_hash}"' if by_key else ""
        what = f'"{"tool_name" if is_tool else "model"}":"{ITEMS[item].name}"'
        value = (
            f'{_HEAD}{self.world.run}","id":"{id_}","time":"{when}",{subject}"data":{{{what},"provider":"chaos","request_tokens":{prompt},'
            f'"response_tokens":{answer},"cached_tokens":{cached},"latency_ms":{latency},"status_code":{200 if ok else 503},'
            f'"power_level":"{POWER_LEVELS[who.power][0]}","byok":{"true" if who.byok else "false"}{key}}}}}'
        ).encode()
        record = Record(str(who.id).encode(), value)
        kind = Kind(who.number, int((time - self._start) // _DAY), item, who.power, who.byok, ok)
        return _Sent(record, who, id_, when, kind, (prompt, answer, cached, latency))

    # --- what else clients send ---------------------------------------------------------------------------------------

    def _extras(self) -> Iterator[Record]:
        chance = self._rng.random()
        if chance < RESENT:
            self.books.resent("resent at once")
            yield self._rng.choice(self._recent).record if self._recent else self._again()
        elif chance < (edge := RESENT + RESENT_LONG_AFTER):
            self.books.resent("resent long after")
            yield self._again()
        elif chance < (edge := edge + CONFLICTING):
            yield self._conflict()
        elif chance < (edge := edge + CORRECTED):
            yield self._correction()
        elif chance < (edge := edge + POISONED):
            yield self._poisoned()
        elif chance < edge + OF_STRANGERS:
            self.books.hold("of an unknown subscription")
            who = self._rng.choice(self._strangers)
            yield self._draw(who, who.item, self._now - 3_600).record

    def _again(self) -> Record:
        return self._rng.choice(self._kept).record

    def _conflict(self) -> Record:
        """Return a record with the identity of an earlier one: another body, or another time, however long ago that was."""
        sent = self._rng.choice(self._kept)
        assert sent.record.value is not None, "only events are kept"  # noqa: S101
        if self._rng.random() < 0.5:
            self.books.refuse("same id, other body", "conflict")
            found, changed = f'"request_tokens":{sent.figures[0]},', f'"request_tokens":{sent.figures[0] + 5_000},'
        else:
            self.books.refuse("same id, other time", "conflict")
            later = datetime.fromisoformat(sent.time) - timedelta(minutes=self._rng.randint(1, 3_000))
            found, changed = f'"time":"{sent.time}"', f'"time":"{later.isoformat()}"'
        return sent.record._replace(value=sent.record.value.replace(found.encode(), changed.encode()))

    def _correction(self) -> Record:
        """Return an event that takes an earlier one back, or amends it; one that was taken back already refuses a second time."""
        sent, amends = self._rng.choice(self._kept), self._rng.random() < 0.5
        self._number += 1
        what = "amends" if amends else "voids"
        document = {
            "specversion": SPEC_VERSION, "type": AMEND_TYPE if amends else VOID_TYPE, "source": self.world.run,
            "id": f"{self._prefix}{self._number:x}", "time": datetime.fromtimestamp(self._now, UTC).isoformat(),
            "subject": str(sent.subscription.id), "data": {what: sent.id},
        }  # fmt: skip
        instead = (sent.kind._replace(ok=True), (sent.figures[0] + 7, sent.figures[1], sent.figures[2], 11))
        if amends:
            document["data"] = {what: sent.id, **_data(*instead)}
        if sent.id in self._corrected:
            self.books.refuse(f"{what} what was taken back", "already_voided")
        else:
            self._corrected.add(sent.id)
            self.books.correct(f"{what} an earlier event", sent.kind, sent.figures, instead if amends else None)
        return Record(sent.record.key, msgspec.json.encode(document))

    def _poisoned(self) -> Record:
        """Return the next kind of bad record; every kind comes in turn."""
        if not self._poison:
            self._poison = sorted(POISON)
            self._rng.shuffle(self._poison)
        kind = self._poison.pop()
        who = self._rng.choice(self._everyone)
        self._number += 1
        time = self.world.now - timedelta(hours=1)
        made = POISON[kind](f"{self._prefix}{self._number:x}", str(who.id), time, self.world.run)
        if isinstance(made, Refused):
            self.books.refuse(kind, made.reason)
            return made.record
        used = made.usage
        day = int((time.timestamp() - self._start) // _DAY)
        self.books.record_faults[kind] += 1
        self.books.accept(Kind(who.number, day, 0, 0, False, True), *used)
        return made.record


def _data(kind: Kind, figures: Figures) -> dict[str, Any]:
    """Return the data of an event of that kind."""
    item = ITEMS[kind.item]
    return {
        "tool_name" if item.tool else "model": item.name, "provider": "chaos", "request_tokens": figures[0],
        "response_tokens": figures[1], "cached_tokens": figures[2], "latency_ms": figures[3],
        "status_code": 200 if kind.ok else 503, "power_level": POWER_LEVELS[kind.power][0], "byok": kind.byok,
    }  # fmt: skip
