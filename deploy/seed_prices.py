"""The price list of `tallystick seed --test-data` (pure): six models and three tools, in two currencies, with changes of price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID, uuid5

from shared.money import exact
from shared.period import month_start

NAMESPACE: Final = UUID("6d0f1c5e-2b1a-5c57-9d4e-3a1f6e1b7c20")
"""Of the ids of all test data."""

PRICES_BEGIN: Final = datetime(2023, 1, 1, tzinfo=UTC)
MARGIN: Final = Decimal("1.20")
"""Sale price over cost."""
CURRENCIES: Final = {"USD": Decimal(1), "EUR": Decimal("0.92")}
"""Currencies with their worth of one US dollar."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a provider charges: USD per million tokens, and per call."""

    input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    cached_input: Decimal = Decimal(0)
    request: Decimal = Decimal(0)

    def columns(self, factor: Decimal) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        """Return input, output and cached input per 1,000 tokens and the price of a request, all times `factor`."""
        with exact():
            per_1k = factor * Decimal("0.001")
            input_, output, cached_input = (c * per_1k for c in (self.input, self.output, self.cached_input))
            return input_.normalize(), output.normalize(), cached_input.normalize(), (self.request * factor).normalize()


@dataclass(frozen=True, slots=True)
class Item:
    """A model or a tool of the price list. `change` is the factor on its sale price since the middle of last month."""

    id: str
    cost: Cost
    name: str = ""
    provider: str = ""
    capabilities: str = ""
    context_length: int = 0
    change: Decimal | None = None


class Model(NamedTuple):
    """A row of `models`, in the order of its insert. List prices are in USD per 1,000 tokens."""

    id: str
    name: str
    provider: str
    description: str
    capabilities: str
    context_length: int
    input_price: Decimal
    output_price: Decimal


class Price(NamedTuple):
    """A row of `model_prices`, in the order of its insert: per 1,000 tokens and per request, in `currency`."""

    id: UUID
    model_id: str | None
    tool_name: str | None
    currency: str
    valid_from: datetime
    valid_to: datetime | None
    input: Decimal
    output: Decimal
    cached_input: Decimal
    request: Decimal
    cost_input: Decimal
    cost_output: Decimal
    cost_cached_input: Decimal
    cost_request: Decimal


def _tokens(input_: str, output: str, cached_input: str) -> Cost:
    return Cost(Decimal(input_), Decimal(output), Decimal(cached_input))


_MODELS = (
    Item("gpt-4o", _tokens("2.50", "10.00", "1.25"), "GPT-4o", "openai", "chat,vision,tools", 128_000, Decimal("0.90")),
    Item("gpt-4o-mini", _tokens("0.15", "0.60", "0.075"), "GPT-4o mini", "openai", "chat,vision,tools", 128_000),
    Item("claude-sonnet-4", _tokens("3.00", "15.00", "0.30"), "Claude Sonnet 4", "anthropic", "chat,vision,tools", 200_000),
    Item("claude-haiku", _tokens("0.80", "4.00", "0.08"), "Claude Haiku", "anthropic", "chat,tools", 200_000, Decimal("1.25")),
    Item("llama-3.3-70b", _tokens("0.88", "0.88", "0.88"), "Llama 3.3 70B", "together", "chat,tools", 131_072),
    Item("text-embedding-3-small", _tokens("0.02", "0", "0.02"), "Embedding 3 small", "openai", "embeddings", 8_191),
)  # fmt: skip
_TOOLS = (
    Item("resolve-library-id", Cost(request=Decimal("0.0005"))),
    Item("query-docs", Cost(request=Decimal("0.002"))),
    Item("get-library-docs", Cost(request=Decimal("0.002"))),
)


def models() -> list[Model]:
    """Return the models, with what they cost at present as list price."""
    rows = []
    for item in _MODELS:
        input_, output, *_ = item.cost.columns(MARGIN * (item.change or 1))
        about = f"{item.name}, served by {item.provider}"
        rows.append(
            Model(item.id, item.name, item.provider, about, item.capabilities, item.context_length, input_, output)
        )
    return rows


def prices(now: datetime) -> list[Price]:
    """Return the price of each model and tool in each currency. Changes took effect in the middle of the month before `now`."""
    changed_at = month_start(month_start(now) - timedelta(days=1)) + timedelta(days=14)
    return [price for item in (*_MODELS, *_TOOLS) for price in _versions(item, changed_at)]


def _versions(item: Item, changed_at: datetime) -> Iterator[Price]:
    model, tool = (None, item.id) if item in _TOOLS else (item.id, None)
    for currency, worth in CURRENCIES.items():
        costs = item.cost.columns(worth)

        def version(name: str, start: datetime, end: datetime | None, factor: Decimal) -> Price:
            id_ = uuid5(NAMESPACE, f"price/{item.id}/{currency}/{name}")  # noqa: B023 (called within the iteration)
            sale = item.cost.columns(worth * MARGIN * factor)  # noqa: B023
            return Price(id_, model, tool, currency, start, end, *sale, *costs)  # noqa: B023

        yield version("first", PRICES_BEGIN, changed_at if item.change else None, Decimal(1))
        if item.change:
            yield version("second", changed_at, None, item.change)
