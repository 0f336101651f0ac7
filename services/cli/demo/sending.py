"""What one demo sends: synthetic traffic, or a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from services.cli.demo.books import Expected
from services.cli.demo.events import Subscriber
from services.cli.demo.record import Record
from services.cli.demo.trace import Trace, TraceTraffic, source_of
from services.cli.demo.traffic import Plan, Traffic, World
from services.cli.demo.world import with_newcomers
from shared.period import Period, month_start

LAST_MONTH: Final = timedelta(hours=48)
"""The end of the previous month in which a part of the traffic happened: still within the late window, ready to be invoiced."""
PRESENT: Final = timedelta(hours=3)
LAST_MONTH_SHARE: Final = 0.45
LATE: Final = 25
"""Events of last month, at most, that are sent when it has been invoiced."""


@dataclass(frozen=True, slots=True)
class Sending:
    """Records to publish, the books that are kept while they are drawn, and how to find them in the log again."""

    traffic: Traffic | TraceTraffic
    now: datetime
    events: int
    """Valid, distinct events that are sent before last month is invoiced."""
    total: int
    """All records, about: what is sent besides valid events is not counted before it is drawn."""
    sources: str
    """A LIKE pattern that matches the sources of these events and of no others."""
    latecomers: Sequence[Subscriber] = ()

    @property
    def expected(self) -> Expected:
        return self.traffic.expected

    def totals(self) -> dict[str, int]:
        """Return what each stage will have seen at the end."""
        return {"published": self.total, "stored": self.events, "summarised": self.events, "rated": self.events}

    def records(self) -> Iterator[Record]:
        return self.traffic.records()

    def corrections(self, subscription_id: str) -> Iterator[Record]:
        """Return what arrives for a subscription when last month has been invoiced; a trace is all there is."""
        return self.traffic.corrections(subscription_id) if isinstance(self.traffic, Traffic) else iter(())


def synthetic(world: World, events: int, seed: int, now: datetime) -> Sending:
    """Return traffic as gateways would have sent it in the last hours, after what was left over from last month."""
    run = f"{now:%Y%m%dT%H%M%S}-{seed}"
    everyone = with_newcomers(world, run)
    end_of_month = month_start(now)
    shares = [
        (Period(end_of_month - LAST_MONTH, end_of_month), LAST_MONTH_SHARE),
        (Period(now - PRESENT, now), 1 - LAST_MONTH_SHARE),
    ]
    plan = Plan(events, seed, run, now, shares, late=min(LATE, events // 40))
    traffic = Traffic(plan, everyone)
    return Sending(traffic, now, plan.in_time, round(plan.in_time * 1.014), f"/demo/{run}/%", everyone.latecomers)


def recorded(world: World, trace: Trace, start: date, now: datetime) -> Sending:
    """Return exactly the rows of a trace."""
    traffic = TraceTraffic(trace, start, world.subscribers, world.models)
    return Sending(traffic, now, trace.rows, trace.rows, source_of(trace, start))
