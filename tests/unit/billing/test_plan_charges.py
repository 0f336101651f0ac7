"""Laws of charges: each interval once by whatever periods tile the time, changes by the second, late usage as a difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.billing.plans.charge import Charge
from services.billing.plans.coupons import in_force, off_fee, off_usage
from services.billing.plans.fees import accrued, fees_due
from services.billing.plans.meters import UsageSum, read_meters
from services.billing.plans.terms import PlanTerms, Versions
from services.billing.plans.timeline import Interval, Phase, Redemption, State, Subscription, timeline
from services.billing.plans.windows import Billed, Target, Window, charges, windows
from shared.money import exact
from shared.period import Period

ID = UUID(int=1)
START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
END = datetime(2029, 1, 1, tzinfo=UTC)
AGES_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def plan(name: str, amount: str = "19", months: int = 1, **more: Any) -> PlanTerms:
    return PlanTerms(UUID(int=sum(name.encode())), name, name.title(), AGES_AGO, Decimal(amount), "EUR", months, **more)


def state(at: datetime, plan_id: str = "basic", phase: Phase = "live", *, anchor: datetime = START) -> State:
    return State(at, phase, plan_id, Decimal(0), "EUR", 1, "postpaid", anchor)


def subscription(*states: State, redemptions: Sequence[Redemption] = ()) -> Subscription:
    return Subscription(ID, UUID(int=2), "gpt-4o", "EUR", states, redemptions)


def due(whose: Subscription, terms: Sequence[PlanTerms], period: Period) -> list[Charge]:
    plans = {name: Versions([t for t in terms if t.plan_id == name]) for name in {str(t.plan_id) for t in terms}}
    intervals = list(timeline(whose, plans, period.start, period.end))
    return [found.charge for found in fees_due(ID, intervals, period)]


def month(text: str) -> Period:
    return Period.parse_month(text)


def test_a_monthly_fee_falls_due_once_a_month_on_the_day_it_began() -> None:
    (fee,) = due(subscription(state(START)), [plan("basic")], month("2026-03"))
    assert (fee.kind, fee.amount, fee.description) == ("fee", Decimal(19), "Basic, from 31 March 2026")
    assert (fee.period_start, fee.period_end) == (
        datetime(2026, 3, 31, 9, 30, tzinfo=UTC),
        datetime(2026, 4, 30, 9, 30, tzinfo=UTC),
    )
    assert fee.key == f"fee:{ID}:2026-03-31T09:30:00Z"


def test_nothing_is_due_before_the_subscription_began() -> None:
    assert due(subscription(state(START)), [plan("basic")], month("2025-12")) == []


def test_a_yearly_fee_falls_due_once_a_year() -> None:
    found = [
        m for m in range(1, 13) if due(subscription(state(START)), [plan("basic", months=12)], month(f"2027-{m:02}"))
    ]
    assert found == [1]


def test_calendar_months_begin_with_a_part_of_one() -> None:
    found = due(
        subscription(state(START)),
        [plan("basic", "31", calendar=True)],
        Period(START, datetime(2026, 3, 1, tzinfo=UTC)),
    )
    assert [fee.description for fee in found] == [
        "Basic, 31 January 2026 to 31 January 2026 (prorated)",
        "Basic, from 1 February 2026",
    ]
    assert found[0].amount == Decimal("0.604166666667")


def test_a_paused_subscription_owes_nothing_for_what_begins_meanwhile() -> None:
    whose = subscription(state(START), state(datetime(2026, 2, 10, tzinfo=UTC), phase="paused"))
    assert len(due(whose, [plan("basic")], Period(START, END))) == 1


def test_who_resumes_within_a_paid_interval_pays_it_once() -> None:
    pause, resume = (START + timedelta(days=days) for days in (3, 6))
    whose = subscription(state(START), state(pause, phase="paused"), state(resume))
    assert [c.kind for c in due(whose, [plan("basic")], Period(START, START + timedelta(days=20)))] == ["fee"]


def test_a_plan_with_another_interval_begins_its_own_and_the_rest_is_credited() -> None:
    at = datetime(2026, 2, 14, 9, 30, tzinfo=UTC)
    whose = subscription(state(START), state(at, "yearly", anchor=at))
    terms = [plan("basic", "28"), plan("yearly", "365", 12)]
    found = due(whose, terms, Period(START, datetime(2026, 3, 1, tzinfo=UTC)))
    assert [(c.kind, c.amount) for c in found] == [
        ("fee", Decimal(28)),
        ("proration", Decimal(-14)),
        ("fee", Decimal(365)),
    ]


def test_a_new_version_of_a_plan_holds_from_the_next_interval_on() -> None:
    later = plan("basic", "29")
    dearer = PlanTerms(UUID(int=9), "basic", "Basic", datetime(2026, 2, 10, tzinfo=UTC), later.amount, "EUR", 1)
    found = due(subscription(state(START)), [plan("basic"), dearer], Period(START, datetime(2026, 4, 1, tzinfo=UTC)))
    assert [fee.amount for fee in found] == [19, 29, 29]


PLANS = [plan("basic", "19"), plan("team", "77.77"), plan("arrears", "31", in_arrears=True), plan("free", "0")]
phases: st.SearchStrategy[Phase] = st.sampled_from(["live", "live", "paused", "trial"])


@st.composite
def histories(draw: st.DrawFn, *, always_live: bool = False) -> Subscription:
    gaps = draw(st.lists(st.integers(1, 50 * 86_400), max_size=6))
    times = accumulate(gaps, lambda at, seconds: at + timedelta(seconds=seconds), initial=START)
    names = [str(p.plan_id) for p in PLANS[:2] if always_live] or [str(p.plan_id) for p in PLANS]
    return subscription(
        *(state(at, draw(st.sampled_from(names)), "live" if always_live else draw(phases)) for at in times)
    )


@given(histories(), st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_any_tiling_of_the_time_charges_the_same(whose: Subscription, days: list[int]) -> None:
    edges = list(accumulate(days, lambda at, more: at + timedelta(days=more), initial=START))
    tiled = [charge for a, b in pairwise(edges) for charge in due(whose, PLANS, Period(a, b))]
    whole = due(whose, PLANS, Period(edges[0], edges[-1]))
    assert sorted(tiled, key=lambda c: c.key) == sorted(whole, key=lambda c: c.key)
    assert len({charge.key for charge in whole}) == len(whole)


@given(histories(always_live=True))
def test_what_is_charged_in_advance_less_credits_is_the_time_on_each_plan(whose: Subscription) -> None:
    plans = {str(p.plan_id): Versions([p]) for p in PLANS}
    until = whose.states[-1].valid_from + timedelta(days=1)
    intervals = list(timeline(whose, plans, START, until))
    charged = [d.charge.amount for d in fees_due(ID, intervals, Period(START, until))]
    with exact():
        assert sum(charged, Decimal(0)) == sum((accrued(i, list(i.spans), "EUR") for i in intervals), Decimal(0))


TEN_OFF = Redemption("TEN", "Ten", START, Decimal(10), None, None, fee_only=False, periods=2)


def test_a_coupon_counts_for_so_many_intervals_from_the_first_that_begins_once_redeemed() -> None:
    plans = {"basic": Versions([plan("basic")])}
    late = Redemption("L", "Late", START + timedelta(days=1), None, Decimal(20), "EUR", fee_only=True, periods=1)
    intervals = list(timeline(subscription(state(START)), plans, START, START + timedelta(days=100)))
    found = in_force([TEN_OFF, late], intervals)
    assert [[r.code for r in found.get(i.begins, ())] for i in intervals] == [["TEN"], ["TEN", "L"], [], []]


def test_coupons_take_off_what_the_one_before_has_left_and_never_more() -> None:
    plans = {"basic": Versions([plan("basic")])}
    intervals = list(timeline(subscription(state(START)), plans, START, START + timedelta(days=1)))
    (fee,) = fees_due(ID, intervals, Period(START, START + timedelta(days=1)))
    twenty = Redemption("T", "Twenty", START, None, Decimal(20), "EUR", fee_only=True, periods=None)
    found = [d.charge for d in off_fee(fee, [TEN_OFF, twenty])]
    assert [(c.kind, c.amount, c.key) for c in found] == [
        ("discount", Decimal("-1.90"), f"discount:TEN:fee:{ID}:2026-01-31T09:30:00Z"),
        ("discount", Decimal("-17.10"), f"discount:T:fee:{ID}:2026-01-31T09:30:00Z"),
    ]
    assert found[0].description == "Ten: 10 % off Basic, from 31 January 2026"
    assert [t.amount for t in off_usage([twenty, TEN_OFF], Decimal(50), "EUR")] == [Decimal("-5.0")]


METERS = """[{"key": "tokens", "name": "tokens", "measure": "tokens", "included": 1000, "mode": "graduated",
              "tiers": [{"up_to": 500, "unit_price": "0.01"}, {"unit_price": "0.003"}]},
             {"key": "calls", "measure": "requests", "mode": "package", "package_size": 10, "package_price": "2.50", "tools": ["query-docs"]},
             {"key": "time", "measure": "seconds", "included": 5, "mode": "volume", "models": ["gpt-4o"],
              "tiers": [{"up_to": 100, "unit_price": "0.5"}, {"unit_price": "0.4"}]}]"""
METERED = plan("metered", includes_usage=True, meters=read_meters(METERS), minimum=Decimal(40))


def used(model: str = "gpt-4o", tool: str = "", **quantities: Any) -> UsageSum:
    facts: dict[str, Any] = dict.fromkeys(
        ("requests", "request_tokens", "response_tokens", "returned_tokens", "latency_ms", "events"), 0
    )
    return UsageSum(
        model_id=model,
        tool_name=tool,
        feature_type="",
        amount=Decimal(quantities.pop("amount", 0)),
        **{**facts, **quantities},
    )


def only_window(terms: PlanTerms, phase: Phase = "live", seconds: int | None = None) -> Window:
    end = datetime(2026, 2, 28, 9, 30, tzinfo=UTC) if seconds is None else START + timedelta(seconds=seconds)
    states = [state(START, str(terms.plan_id), phase), *([state(end, "other", phase)] if seconds else [])]
    plans = {str(terms.plan_id): Versions([terms]), "other": Versions([plan("other")])}
    return next(windows(ID, list(timeline(subscription(*states), plans, START, START + timedelta(days=1)))))


def charged(window: Window, sums: Sequence[UsageSum], billed: dict[str, Billed], period: Period) -> list[Charge]:
    def nothing(_amount: Decimal) -> Iterator[Target]:
        return iter(())

    return [
        c for _, c in charges(window, sums, "EUR", lambda key: billed.get(key, Billed()), period, discounted=nothing)
    ]


def test_a_window_is_charged_by_its_meters_and_up_to_its_minimum() -> None:
    sums = [
        used(requests=3, request_tokens=1000, response_tokens=700, latency_ms=7_250, amount="1.25"),
        used("", "query-docs", requests=11, amount="0.02"),
    ]
    found = charged(only_window(METERED), sums, {}, month("2026-02"))
    assert [(c.kind, c.amount, c.quantity, c.unit, c.unit_price) for c in found] == [
        ("discount", Decimal("-1.27"), 1, "period", None),
        ("overage", Decimal("5.6"), 700, "token", None),
        ("overage", Decimal("5.00"), 2, "package of 10 requests", Decimal("2.50")),
        ("overage", Decimal("1.125"), Decimal("2.25"), "second", None),
        ("minimum", Decimal("9.275"), 1, "period", None),
    ]
    assert found[1].description == "Metered: 700 tokens beyond 1000 included, 31 January 2026 to 28 February 2026"


def test_only_coverage_is_charged_before_a_window_has_ended() -> None:
    found = charged(only_window(METERED), [used(request_tokens=9_000, amount="3")], {}, month("2026-01"))
    assert [(c.kind, c.amount) for c in found] == [("discount", Decimal(-3))]


def test_what_is_included_is_a_share_of_a_window_that_was_left_early_but_whole_in_a_trial() -> None:
    half = 14 * 86_400
    sums = [used(request_tokens=1000)]
    (overage, _) = charged(only_window(METERED, seconds=half), sums, {}, month("2026-02"))
    assert (overage.kind, overage.metadata["included"], overage.amount) == ("overage", "500", Decimal("5.00"))
    assert charged(only_window(METERED, "trial", seconds=half), sums, {}, month("2026-02")) == []


usages = st.builds(
    used,
    tool=st.sampled_from(["", "query-docs"]),
    requests=st.integers(-50, 200),
    request_tokens=st.integers(-500, 5_000),
    latency_ms=st.integers(-500, 90_000),
    amount=st.decimals(min_value=-5, max_value=50, places=6),
)


@given(st.lists(st.lists(usages, max_size=4), min_size=1, max_size=5))
def test_late_usage_in_any_portions_comes_to_the_same_as_all_at_once(portions: list[list[UsageSum]]) -> None:
    """Void, amend and late usage: the sum of what is charged follows from all usage, however often the period was charged before."""
    window, period = only_window(METERED), month("2026-02")
    billed: dict[str, Billed] = {}
    keys: list[str] = []
    for upto in range(1, len(portions) + 1):
        for charge in charged(window, [u for portion in portions[:upto] for u in portion], billed, period):
            base = charge.key.partition("#")[0]
            before = billed.get(base, Billed())
            with exact():
                billed[base] = Billed(before.amount + charge.amount, before.charges + 1)
            keys.append(charge.key)
    at_once = {c.key: c.amount for c in charged(window, [u for portion in portions for u in portion], {}, period)}
    assert {key: found.amount for key, found in billed.items() if found.amount} == at_once
    assert len(set(keys)) == len(keys)
    assert charged(window, [u for portion in portions for u in portion], billed, period) == []


def test_intervals_of_what_is_prepaid_are_not_charged() -> None:
    prepaid = State(START, "live", "basic", Decimal(0), "EUR", 1, "prepaid", START)
    found: list[Interval] = list(timeline(subscription(prepaid), {"basic": Versions([plan("basic")])}, START, END))
    assert found == []
