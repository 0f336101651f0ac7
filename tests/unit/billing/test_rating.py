"""Laws of rating: additive over any split, independent of batch boundaries, exact, priced by the hour of the event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.rating.rating import Component, Factors, Price, PriceBook, Rated, RatedRow, Unit, rate, rate_all
from services.billing.rating.usage import Payer, Quantities, UsageKey, merge
from shared.contracts import UsageDelta
from shared.money import exact

HOUR = datetime(2026, 11, 21, 10, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
SUBSCRIPTION = UUID(int=7)
FACTORS = Factors({"eco": Decimal("0.7"), "balanced": Decimal("1.0"), "precision": Decimal("1.5")}, byok=Decimal(0))
GPT = Price(
    id=UUID(int=1),
    kind="model",
    subject="gpt-4o",
    currency="USD",
    valid_from=datetime(2026, 1, 1, tzinfo=UTC),
    valid_to=None,
    input_per_1k=Decimal("0.0025"),
    output_per_1k=Decimal("0.01"),
    cached_input_per_1k=Decimal("0.00125"),
)
BOOK = PriceBook.of([GPT], FACTORS)


def delta(**fields: object) -> UsageDelta:
    facts: dict[str, object] = {"subscription_id": SUBSCRIPTION, "hour": HOUR, "model_id": "gpt-4o", "requests": 1}
    return UsageDelta(**{**facts, **fields})  # type: ignore[arg-type]


def amount_of(deltas: list[UsageDelta], book: PriceBook = BOOK) -> Decimal:
    rated = [rate(key, used, "USD", book) for key, used in merge(deltas).items()]
    assert all(isinstance(r, Rated) for r in rated)
    return total(r.amount for r in rated if isinstance(r, Rated))


def total(amounts: Iterable[Decimal]) -> Decimal:
    with exact():
        return sum(amounts, Decimal(0))


def test_tokens_cost_their_price_per_thousand() -> None:
    assert amount_of([delta(request_tokens=1000, response_tokens=1000)]) == Decimal("0.0125")


def test_cached_tokens_are_charged_at_the_cached_price_and_only_there() -> None:
    assert amount_of([delta(request_tokens=1000, cached_tokens=400)]) == Decimal("0.0015") + Decimal("0.0005")


@pytest.mark.parametrize(("level", "factor"), [("eco", "0.7"), ("balanced", "1.0"), ("precision", "1.5")])
def test_a_power_level_multiplies_the_price(level: str, factor: str) -> None:
    assert amount_of([delta(request_tokens=1000, power_level=level)]) == Decimal("0.0025") * Decimal(factor)


def test_usage_on_the_tenants_own_provider_key_is_free_unless_a_factor_is_set() -> None:
    own = [delta(request_tokens=1000, byok=True)]
    assert amount_of(own) == 0
    assert amount_of(own, PriceBook.of([GPT], replace(FACTORS, byok=Decimal("0.1")))) == Decimal("0.00025")


def test_failed_requests_cost_nothing_unless_the_price_says_so() -> None:
    failed = [delta(request_tokens=1000, status_class=5, errors=1)]
    assert amount_of(failed) == 0
    assert amount_of(failed, PriceBook.of([replace(GPT, bills_errors=True)], FACTORS)) == Decimal("0.0025")


def test_a_tool_call_costs_its_price_per_request() -> None:
    tool = replace(GPT, kind="tool", subject="query-docs", per_request=Decimal("0.003"), input_per_1k=Decimal(0))
    assert amount_of(
        [delta(model_id="", tool_name="query-docs", requests=3)], PriceBook.of([tool], FACTORS)
    ) == Decimal("0.009")


@pytest.mark.parametrize(("unit", "expected"), [("second", "0.002468"), ("returned_token", "0.084")])
def test_a_unit_is_a_second_of_latency_or_a_returned_token(unit: Unit, expected: str) -> None:
    tool = replace(
        GPT, kind="tool", subject="transcribe", input_per_1k=Decimal(0), unit=unit, per_unit=Decimal("0.002")
    )
    call = delta(model_id="", tool_name="transcribe", latency_sum_ms=1_234, latency_count=1, tokens_returned=42)
    assert amount_of([call], PriceBook.of([tool], FACTORS)) == Decimal(expected)


def test_a_tool_without_a_price_of_its_own_costs_its_features_price() -> None:
    feature = replace(GPT, kind="feature", subject="docs", per_request=Decimal("0.001"))
    call = [delta(model_id="", tool_name="query-docs", feature_type="docs", requests=2)]
    assert amount_of(call, PriceBook.of([feature], FACTORS)) == Decimal("0.002")


def test_a_model_without_a_price_never_falls_back_to_another_price() -> None:
    feature = replace(GPT, kind="feature", subject="chat", per_request=Decimal("0.001"))
    key, used = next(iter(merge([delta(model_id="unknown", feature_type="chat")]).items()))
    assert rate(key, used, "USD", PriceBook.of([feature], FACTORS)) is None


def test_the_price_in_force_at_the_hour_of_the_event_applies() -> None:
    dearer = replace(GPT, id=UUID(int=2), valid_from=MIDNIGHT, input_per_1k=Decimal("0.005"))
    book = PriceBook.of([replace(GPT, valid_to=MIDNIGHT), dearer], FACTORS)
    before, after = MIDNIGHT - timedelta(hours=1), MIDNIGHT
    assert amount_of([delta(hour=before, request_tokens=1000)], book) == Decimal("0.0025")
    assert amount_of([delta(hour=after, request_tokens=1000)], book) == Decimal("0.005")


def test_the_highest_revision_that_covers_the_hour_is_in_force() -> None:
    first = replace(GPT, id=UUID(int=2), revision=1, valid_to=MIDNIGHT, input_per_1k=Decimal("0.005"))
    second = replace(
        first, id=UUID(int=3), revision=2, valid_from=MIDNIGHT - timedelta(hours=1), input_per_1k=Decimal("0.007")
    )
    book = PriceBook.of([second, GPT, first], FACTORS)
    found = {hours: book.find("model", "gpt-4o", "USD", MIDNIGHT - timedelta(hours=hours)) for hours in (2, 1, 0)}
    assert found == {2: first, 1: second, 0: GPT}


@pytest.mark.parametrize("hour", [GPT.valid_from - timedelta(hours=1), MIDNIGHT])
def test_usage_outside_every_price_version_is_held(hour: datetime) -> None:
    book = PriceBook.of([replace(GPT, valid_to=MIDNIGHT)], FACTORS)
    key, used = next(iter(merge([delta(hour=hour)]).items()))
    assert rate(key, used, "USD", book) is None


def test_usage_in_another_currency_than_the_price_is_held() -> None:
    key, used = next(iter(merge([delta()]).items()))
    assert rate(key, used, "EUR", BOOK) is None


def test_an_unknown_power_level_is_held_not_guessed() -> None:
    key, used = next(iter(merge([delta(power_level="turbo")]).items()))
    assert rate(key, used, "USD", BOOK) is None


tokens = st.integers(0, 2**53 - 1)
prices = st.decimals(min_value=0, max_value=1000, places=12, allow_nan=False)


@st.composite
def deltas(draw: st.DrawFn) -> UsageDelta:
    request_tokens = draw(tokens)
    status_class = draw(st.sampled_from([2, 4, 5]))
    requests = draw(st.integers(1, 10**6))
    return delta(
        hour=HOUR + timedelta(hours=draw(st.integers(0, 3))),
        power_level=draw(st.sampled_from(["eco", "balanced", "precision"])),
        byok=draw(st.booleans()),
        status_class=status_class,
        requests=requests,
        errors=requests if status_class != 2 else 0,
        request_tokens=request_tokens,
        cached_tokens=draw(st.integers(0, request_tokens)),
        response_tokens=draw(tokens),
        tokens_returned=draw(tokens),
        latency_sum_ms=draw(tokens),
    )


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    first = replace(
        GPT,
        valid_to=HOUR + timedelta(hours=2),
        input_per_1k=draw(prices),
        output_per_1k=draw(prices),
        cached_input_per_1k=draw(prices),
        per_request=draw(prices),
        unit=draw(st.sampled_from(["second", "returned_token"])),
        per_unit=draw(prices),
        bills_errors=draw(st.booleans()),
    )
    second = replace(
        first, id=UUID(int=2), valid_from=HOUR + timedelta(hours=2), valid_to=None, output_per_1k=draw(prices)
    )
    return PriceBook.of([first, second], replace(FACTORS, byok=draw(prices)))


@given(st.lists(deltas(), max_size=12), st.integers(0, 12), books())
def test_rating_is_independent_of_where_batches_are_cut(usage: list[UsageDelta], cut: int, book: PriceBook) -> None:
    assert total([amount_of(usage[:cut], book), amount_of(usage[cut:], book)]) == amount_of(usage, book)


@given(st.lists(deltas(), max_size=8), st.randoms(use_true_random=False), books())
def test_rating_is_independent_of_the_order_of_arrival(usage: list[UsageDelta], random, book: PriceBook) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(usage)
    random.shuffle(shuffled)
    assert amount_of(shuffled, book) == amount_of(usage, book)


@given(deltas(), st.integers(1, 50), books())
def test_rating_is_additive(usage: UsageDelta, times: int, book: PriceBook) -> None:
    assert amount_of([usage] * times, book) == total([amount_of([usage], book)] * times)


QUANTITIES = (
    "requests",
    "errors",
    "request_tokens",
    "response_tokens",
    "cached_tokens",
    "tokens_returned",
    "latency_sum_ms",
)


@given(st.lists(deltas(), min_size=1, max_size=6), books())
def test_what_is_taken_back_is_rated_exactly_as_the_negative(usage: list[UsageDelta], book: PriceBook) -> None:
    voids = [
        delta(
            hour=d.hour,
            power_level=d.power_level,
            byok=d.byok,
            status_class=d.status_class,
            **{q: -getattr(d, q) for q in QUANTITIES},
        )
        for d in usage
    ]
    assert total([amount_of(voids, book), amount_of(usage, book)]) == 0
    assert amount_of([*usage, *voids], book) == 0


@given(st.lists(deltas(), min_size=1, max_size=12))
def test_merging_keeps_every_quantity_and_the_range_of_times(usage: list[UsageDelta]) -> None:
    merged = merge(usage)
    assert sum(q.requests for q in merged.values()) == sum(d.requests for d in usage)
    assert sum(q.request_tokens for q in merged.values()) == sum(d.request_tokens for d in usage)
    assert sum(q.response_tokens for q in merged.values()) == sum(d.response_tokens for d in usage)
    assert sum(q.cached_tokens for q in merged.values()) == sum(d.cached_tokens for d in usage)
    assert list(merged) == sorted(merged)


def test_merging_forgets_what_does_not_matter_to_a_price() -> None:
    one = delta(api_key_id=UUID(int=3), provider="openai", first_event_at=HOUR, last_event_at=HOUR)
    two = delta(provider="azure", first_event_at=HOUR + timedelta(minutes=1), last_event_at=HOUR + timedelta(minutes=5))
    key = UsageKey(SUBSCRIPTION, HOUR, "gpt-4o", "", "", "balanced", False, 2)
    assert merge([one, two]) == {
        key: Quantities(requests=2, first_event_at=HOUR, last_event_at=HOUR + timedelta(minutes=5))
    }


@given(st.lists(deltas(), max_size=12), books(), st.booleans())
def test_many_keys_at_once_are_rated_as_each_by_itself(usage: list[UsageDelta], book: PriceBook, known: bool) -> None:
    costs: dict[Component, Decimal] | None = {"input": Decimal("0.000001"), "units": Decimal("0.1")} if known else None
    book = PriceBook.of([replace(price, cost=costs) for price in book.prices], book.factors)
    others = [delta(subscription_id=UUID(int=8), model_id=model, request_tokens=1) for model in ("gpt-4o", "unpriced")]
    merged = merge([*usage, *others])
    payers = {SUBSCRIPTION: Payer(UUID(int=1), "postpaid", "USD"), UUID(int=8): Payer(UUID(int=2), "prepaid", "EUR")}

    assert rate_all(merged, payers, book) == [
        RatedRow(key, used, payers[key.subscription_id], rate(key, used, payers[key.subscription_id].currency, book))
        for key, used in merged.items()
    ]
