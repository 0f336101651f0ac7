"""Reads LiteLLM's public cost map (`model_prices_and_context_window.json`) as models and prices (pure).

The map says in USD what providers charge for a token; a sale price is that and a markup. What is charged by anything else than tokens and
requests (pictures, seconds of audio) has no price here, and is skipped with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Final

from services.billing.rating.price_file import NewPrice, PriceRefused, parse_amount
from shared.money import exact

CURRENCY: Final = "USD"
SAMPLE: Final = "sample_spec"
"""The entry of the map that only explains the others."""
_AS_WRITTEN: Final = Context(prec=15)
"""A number of the map has been a float before: beyond this many digits there is only noise."""
_TOKENS: Final = {
    "input_cost_per_token": "input", "output_cost_per_token": "output", "cache_read_input_token_cost": "cached_input",
}  # fmt: skip
_REQUEST: Final = "input_cost_per_query"
_LARGEST_CONTEXT: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Offer:
    """A model of the map, and the price that is asked for it. `context_length` is in tokens, None where it is not known."""

    model: str
    provider: str
    context_length: int | None
    capabilities: tuple[str, ...]
    price: NewPrice


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that has no price, and why."""

    model: str
    why: str


@dataclass(slots=True)
class CostMap:
    """What a map holds, in the order of its entries."""

    offers: list[Offer] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def read_cost_map(
    document: Mapping[str, Any], *, markup_percent: Decimal = Decimal(0), providers: Collection[str] = ()
) -> CostMap:
    """Return the models of a map, of these providers or of all. Raises `PriceRefused` for what is no map, or has nothing of them."""
    found = CostMap()
    for model, entry in document.items():
        if not isinstance(entry, Mapping):
            raise PriceRefused(f"'{model}' is not an object: a map of models to their costs is expected")
        if model == SAMPLE or (providers and entry.get("litellm_provider") not in providers):
            continue
        try:
            found.offers.append(_offer(model, entry, markup_percent))
        except PriceRefused as refused:
            found.skipped.append(Skipped(model, str(refused)))
    if not found.offers and not found.skipped:
        named = f" of {', '.join(providers)}" if providers else ""
        raise PriceRefused(f"the map has no model{named}")
    return found


def _offer(model: str, entry: Mapping[str, Any], markup_percent: Decimal) -> Offer:
    costs = {part: _per_1k(name, entry[name]) for name, part in _TOKENS.items() if entry.get(name) is not None}
    request = _cost(_REQUEST, entry[_REQUEST]) if entry.get(_REQUEST) is not None else None
    provider = entry.get("litellm_provider")
    if not isinstance(provider, str) or not provider:
        raise PriceRefused("it names no litellm_provider")
    if not costs.keys() & {"input", "output"} and request is None:
        raise PriceRefused("it has no cost per token or request")
    price = NewPrice(
        kind="model",
        subject=model,
        currency=CURRENCY,
        input_per_1k=_sale("input", costs.get("input"), markup_percent) or Decimal(0),
        output_per_1k=_sale("output", costs.get("output"), markup_percent) or Decimal(0),
        cached_input_per_1k=_sale("cached_input", costs.get("cached_input"), markup_percent),
        per_request=_sale("request", request, markup_percent) or Decimal(0),
        cost_input_per_1k=costs.get("input"),
        cost_output_per_1k=costs.get("output"),
        cost_cached_input_per_1k=costs.get("cached_input"),
        cost_per_request=request,
        note="LiteLLM's cost map",
    )
    return Offer(model, provider, _context(entry), _capabilities(entry), price)


def _per_1k(name: str, given: object) -> Decimal:
    with exact():
        return parse_amount(name, _cost(name, given) * 1000).normalize()


def _cost(name: str, given: object) -> Decimal:
    """Return a number of the map, as it was written. Raises `PriceRefused`."""
    is_number = isinstance(given, int | float | Decimal) and not isinstance(given, bool)
    amount = (
        Decimal(str(given)) if is_number else None
    )  # of a float the shortest text that means it, which is how it was written
    if amount is None or not amount.is_finite():
        raise PriceRefused(f"{name} is {given!r}: a number is expected")
    return parse_amount(name, _AS_WRITTEN.plus(amount))


def _sale(name: str, cost: Decimal | None, markup_percent: Decimal) -> Decimal | None:
    if cost is None:
        return None
    with exact():
        return parse_amount(name, _AS_WRITTEN.plus(cost * (1 + markup_percent / 100)).normalize())


def _context(entry: Mapping[str, Any]) -> int | None:
    for name in ("max_input_tokens", "max_tokens"):
        length = entry.get(name)
        if isinstance(length, int | float | Decimal) and 0 < length <= _LARGEST_CONTEXT:
            return int(length) or None
    return None


def _capabilities(entry: Mapping[str, Any]) -> tuple[str, ...]:
    mode = entry.get("mode")
    supported = sorted(
        name.removeprefix("supports_")
        for name, given in entry.items()
        if name.startswith("supports_") and given is True
    )
    return (*((mode,) if isinstance(mode, str) and mode else ()), *supported)
