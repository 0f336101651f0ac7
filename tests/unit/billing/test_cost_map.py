"""LiteLLM's cost map becomes models and prices, every digit kept."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.rating.cost_map import read_cost_map
from services.billing.rating.price_file import PriceRefused
from shared.money import exact

GPT: dict[str, Any] = {
    "litellm_provider": "openai", "mode": "chat", "max_tokens": 16384, "max_input_tokens": 128000, "max_output_tokens": 16384,
    "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-06,
    "supports_vision": True, "supports_function_calling": True, "supports_audio_input": False,
}  # fmt: skip


def test_costs_per_token_become_costs_and_prices_per_thousand() -> None:
    [offer] = read_cost_map({"gpt-4o": GPT}).offers
    assert (offer.model, offer.provider, offer.context_length) == ("gpt-4o", "openai", 128000)
    assert offer.capabilities == ("chat", "function_calling", "vision")
    price = offer.price
    assert (price.currency, price.input_per_1k, price.output_per_1k) == ("USD", Decimal("0.0025"), Decimal("0.01"))
    assert price.cached_input_per_1k == price.cost_cached_input_per_1k == Decimal("0.00125")
    assert (price.cost_input_per_1k, price.cost_output_per_1k) == (Decimal("0.0025"), Decimal("0.01"))


def test_a_markup_is_put_on_what_is_charged_and_not_on_what_it_costs() -> None:
    [offer] = read_cost_map({"gpt-4o": GPT}, markup_percent=Decimal("12.5")).offers
    assert (offer.price.input_per_1k, offer.price.cost_input_per_1k) == (Decimal("0.0028125"), Decimal("0.0025"))


def test_what_has_no_price_by_token_or_request_is_skipped_with_the_reason() -> None:
    found = read_cost_map({
        "sample_spec": {"input_cost_per_token": "explained here"},
        "dall-e-3": {"litellm_provider": "openai", "mode": "image_generation", "output_cost_per_image": 0.04},
        "whisper": {"litellm_provider": "openai", "input_cost_per_second": 0.0001},
        "nameless": {"input_cost_per_token": 1e-06},
        "broken": {"litellm_provider": "x", "input_cost_per_token": "cheap"},
        "negative": {"litellm_provider": "x", "input_cost_per_token": -1},
        "rerank": {"litellm_provider": "cohere", "mode": "rerank", "input_cost_per_query": 0.002, "input_cost_per_token": 0.0},
    })  # fmt: skip
    [rerank] = found.offers
    assert (rerank.model, rerank.price.per_request, rerank.price.input_per_1k) == (
        "rerank",
        Decimal("0.002"),
        Decimal(0),
    )
    why = {one.model: one.why for one in found.skipped}
    assert why == {
        "dall-e-3": "it has no cost per token or request",
        "whisper": "it has no cost per token or request",
        "nameless": "it names no litellm_provider",
        "broken": "input_cost_per_token is 'cheap': a number is expected",
        "negative": "input_cost_per_token is -1: a price is never negative",
    }


def test_models_of_other_providers_are_left_out() -> None:
    documents = {"gpt-4o": GPT, "claude": {**GPT, "litellm_provider": "anthropic"}}
    assert [offer.model for offer in read_cost_map(documents, providers=["anthropic"]).offers] == ["claude"]
    with pytest.raises(PriceRefused, match="the map has no model of nobody"):
        read_cost_map(documents, providers=["nobody"])
    with pytest.raises(PriceRefused, match="'gpt-4o' is not an object"):
        read_cost_map({"gpt-4o": 5})


@given(st.decimals("0.000000001", "10", places=9), st.booleans())
def test_a_cost_means_what_was_written_whether_it_came_as_a_float_or_exactly(cost: Decimal, as_float: bool) -> None:
    entry = {"litellm_provider": "x", "input_cost_per_token": float(cost) if as_float else cost}
    [offer] = read_cost_map({"m": entry}).offers
    with exact():
        assert offer.price.cost_input_per_1k == cost * 1000
