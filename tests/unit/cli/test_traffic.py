"""The demo's traffic: its books must be true, or comparing the database with them proves nothing."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from services.cli.demo.books import Usage
from services.cli.demo.events import Model, Subscriber
from services.cli.demo.malformed import MALFORMED, malformed
from services.cli.demo.record import Record
from services.cli.demo.traffic import Plan, Traffic, World, arrival_times
from services.ingest.acceptance import Limits, Reason, Rejected, accept
from shared.contracts import UsageEvent
from shared.corrections import AmendEvent, VoidEvent
from shared.period import Period

NOW = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
LAST_MONTH = Period(datetime(2026, 10, 30, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
TODAY = Period(NOW - timedelta(hours=3), NOW)

KEY_HASH = "a" * 64


def subscriber(number: int, *, key_hash: str | None = None) -> Subscriber:
    return Subscriber(str(UUID(int=number)), None, key_hash)


WORLD = World(
    subscribers=[subscriber(n, key_hash=KEY_HASH) for n in range(1, 41)],
    models=[Model("gpt-4o", "openai"), Model("claude-sonnet", "anthropic", 1.5)],
    latecomers=[subscriber(100), subscriber(101)],
    strangers=[subscriber(200), subscriber(201)],
)


def traffic(events: int = 4_000, seed: int = 7) -> Traffic:
    return Traffic(Plan(events, seed, "run", NOW, [(LAST_MONTH, 0.4), (TODAY, 0.6)]), WORLD)


def judge(record: Record) -> UsageEvent | VoidEvent | AmendEvent | Rejected:
    limits = Limits()
    return accept(record.value, record.headers, limits, *limits.window(NOW))


def test_the_books_are_what_an_independent_count_of_the_records_says() -> None:
    drawn = traffic()
    records = list(drawn.records())
    strangers = {s.subscription_id for s in WORLD.strangers}
    seen: dict[tuple[str, str], UsageEvent] = {}
    counted: Counter[str] = Counter()
    usage = Usage()
    for record in records:
        event = judge(record)
        if isinstance(event, Rejected):
            counted["quarantined"] += 1
        elif not isinstance(event, UsageEvent):
            counted[event.type] += 1
        elif event.subject in strangers:
            counted["held"] += 1
        elif (event.source, event.id) not in seen:
            seen[event.source, event.id] = event
            usage.add(
                error=event.data.status_code >= 400,
                request_tokens=event.data.request_tokens,
                response_tokens=event.data.response_tokens,
                cached_tokens=event.data.cached_tokens,
            )
        else:
            counted["duplicates" if seen[event.source, event.id] == event else "quarantined"] += 1

    assert drawn.expected.published == len(records)
    assert drawn.expected.usage == usage
    assert drawn.expected.inserted == 4_000
    assert counted == Counter(
        duplicates=drawn.expected.duplicates, quarantined=drawn.expected.quarantined, held=drawn.expected.held
    )
    assert sum(u.requests for u in drawn.expected.by_subscription.values()) == usage.requests


def test_every_kind_of_trouble_occurs_even_in_a_small_run() -> None:
    drawn = traffic(events=1_000)
    list(drawn.records())

    assert drawn.expected.rejected.keys() >= {*MALFORMED, "conflict"}
    assert drawn.expected.duplicates == 10
    assert drawn.expected.held >= 1
    assert {s.subscription_id for s in WORLD.latecomers} <= drawn.expected.by_subscription.keys()


def test_a_seed_draws_the_same_traffic_again() -> None:
    assert list(traffic(500).records()) == list(traffic(500).records())
    assert list(traffic(500).records()) != list(traffic(500, seed=8).records())


def test_events_happen_late_out_of_order_and_never_in_the_future() -> None:
    times = [event.time for record in traffic().records() if isinstance(event := judge(record), UsageEvent)]

    assert max(times) <= NOW
    assert min(times) >= LAST_MONTH.start - timedelta(hours=36)
    assert any(later < earlier for earlier, later in pairwise(times))
    assert sum(LAST_MONTH.start <= at < LAST_MONTH.end for at in times) / len(times) == pytest.approx(0.4, abs=0.05)


def test_arrivals_come_in_bursts() -> None:
    times = arrival_times(random.Random(3), 20_000, TODAY)
    per_minute = Counter(int(t // 60) for t in times)
    mean = len(times) / (TODAY.duration.total_seconds() / 60)

    assert times == sorted(times)
    assert TODAY.start.timestamp() <= times[0] <= times[-1] < TODAY.end.timestamp()
    assert max(per_minute.values()) > 2 * mean


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_record_is_refused_for_a_reason_that_explains_it(kind: str) -> None:
    verdict = judge(malformed(kind, "req-1", str(UUID(int=1)), NOW))

    assert isinstance(verdict, Rejected), f"{kind} was accepted"
    assert verdict.detail


def test_all_reasons_that_bytes_alone_can_give_are_provoked() -> None:
    found = {v.reason for k in MALFORMED if isinstance(v := judge(malformed(k, "r", str(UUID(int=1)), NOW)), Rejected)}

    by_what_is_stored = {Reason.CONFLICT, Reason.ALREADY_VOIDED, Reason.NOT_VOIDABLE}
    assert found == set(Reason) - by_what_is_stored - {Reason.KEY_MISMATCH, Reason.REFUSED_BY_DATABASE}


def test_what_comes_late_is_of_last_month_and_one_event_is_taken_back() -> None:
    drawn = Traffic(Plan(1_000, 7, "run", NOW, [(LAST_MONTH, 0.4), (TODAY, 0.6)], late=20), WORLD)
    sent = [event for record in drawn.records() if isinstance(event := judge(record), UsageEvent)]
    before = drawn.expected.usage.requests
    subscription = max(drawn.expected.by_subscription, key=lambda s: drawn.expected.by_subscription[s].requests)

    *late, taken_back = [judge(record) for record in drawn.corrections(subscription)]

    assert before == 980
    assert len(late) == 20
    assert all(isinstance(event, UsageEvent) and event.time in LAST_MONTH for event in late)
    assert isinstance(taken_back, VoidEvent)
    original = next(e for e in sent if (e.source, e.id) == (taken_back.source, taken_back.data.voids))
    assert original.subject in (subscription, None)
    assert original.time in LAST_MONTH
    assert drawn.expected.usage.requests == before + 20 - 1
    assert drawn.expected.inserted == before + 20 + 1
