"""Prices: set, ended, and imported from LiteLLM's cost map."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi import Body as JsonBody
from pydantic import AfterValidator, Field, model_validator

from services.api.admin.fields import Currency, Id
from services.api.auth.asking import Administrator
from services.api.fields import Amount, Answer, Body, Instant
from services.api.state import state_of
from services.billing.rating.cost_map import read_cost_map
from services.billing.rating.desk.importing import import_cost_map
from services.billing.rating.desk.new_prices import end_price, set_prices
from services.billing.rating.price_file import NewPrice, NoSuchPrice
from services.billing.rating.rating import Factors, Price, PriceBook
from services.billing.rating.store import read_prices
from shared.period import hour_start

router = APIRouter(prefix="/api/v1/admin/prices", tags=["admin: models and prices"])


def _on_the_hour(at: datetime) -> datetime:
    if at != hour_start(at):
        raise ValueError("prices begin and end on whole UTC hours")
    return at


Hour = Annotated[Instant, AfterValidator(_on_the_hour)]
Cost = Annotated[Amount, Field(ge=0, lt=10**12)]


class PriceWish(Body):
    """A price that is to be set, of exactly one of model, tool and feature. Sale prices are in `currency`, costs what the provider charges us."""

    model: Id | None = None
    tool: Id | None = None
    feature: Id | None = None
    currency: Currency
    input_per_1k: Cost = Decimal(0)
    output_per_1k: Cost = Decimal(0)
    cached_input_per_1k: Cost | None = Field(None, description="As other input without it.")
    per_request: Cost = Decimal(0)
    unit: Literal["second", "returned_token"] | None = None
    per_unit: Cost = Decimal(0)
    bills_errors: bool = Field(False, description="Whether failed requests cost as much as others.")
    valid_from: Hour | None = Field(None, description="First hour (UTC); the next full hour without it.")
    valid_to: Hour | None = Field(None, description="The first hour at which it is not in force any more.")
    cost_input_per_1k: Cost | None = None
    cost_output_per_1k: Cost | None = None
    cost_cached_input_per_1k: Cost | None = None
    cost_per_request: Cost | None = None
    cost_per_unit: Cost | None = None
    note: str | None = Field(None, max_length=1_000)

    @model_validator(mode="after")
    def _makes_sense(self) -> PriceWish:
        if sum(subject is not None for subject in (self.model, self.tool, self.feature)) != 1:
            raise ValueError("a price is of exactly one of model, tool and feature")
        if self.unit is None and (self.per_unit or self.cost_per_unit is not None):
            raise ValueError("unit and per_unit belong together: what is counted, and what one of it costs")
        if self.valid_from and self.valid_to and self.valid_from >= self.valid_to:
            raise ValueError("it would end before it begins")
        return self

    def wanted(self) -> NewPrice:
        """Return it as what the desk takes."""
        kind = "model" if self.model is not None else "tool" if self.tool is not None else "feature"
        given = self.model_dump(exclude={"model", "tool", "feature"})
        return NewPrice(kind=kind, subject=getattr(self, kind), **given)


class PricesWish(Body):
    """Prices that are to be set, all or none."""

    prices: list[PriceWish] = Field(min_length=1, max_length=1_000)
    replace: bool = Field(False, description="End a version that is in force without end when the new one begins.")
    new_currency: bool = Field(False, description="Take a currency that nobody is billed in yet.")


class PriceAnswer(Answer):
    """A version of a price, in force in [valid_from, valid_to). Amounts are per 1,000 tokens, per request and per unit."""

    id: UUID
    kind: str
    subject: str
    currency: str
    valid_from: Instant
    valid_to: Instant | None
    revision: int
    input_per_1k: Amount
    output_per_1k: Amount
    cached_input_per_1k: Amount
    per_request: Amount
    unit: str | None
    per_unit: Amount
    bills_errors: bool
    cost: dict[str, Amount] | None = Field(description="What the provider charges us for one request, token or unit.")

    @classmethod
    def of(cls, price: Price) -> PriceAnswer:
        """Return a price as an answer."""
        return cls.model_validate(price, from_attributes=True)


class SetAnswer(PriceAnswer):
    """A price that was set."""

    replaced: UUID | None = Field(description="The version that ends when it begins.")


class Ending(Body):
    """When a price is to end."""

    at: Hour = Field(description="The first hour, to come, at which it is not in force any more.")


class ChangeAnswer(Answer):
    """A price that an import sets; `was` is the one in force until then."""

    model: str
    becomes: PriceAnswer
    was: PriceAnswer | None


class SkippedAnswer(Answer):
    """An entry of a cost map that has no price here."""

    model: str
    why: str


class ImportAnswer(Answer):
    """What an import came to, or would come to."""

    dry_run: bool
    valid_from: Instant
    new_models: list[str]
    changes: list[ChangeAnswer]
    unchanged: int
    skipped: list[SkippedAnswer]


@router.get("")
async def list_all_prices(
    request: Request,
    principal: Administrator,
    *,
    kind: Literal["model", "tool", "feature"] | None = None,
    subject: Annotated[str | None, Query(description="Of this model, tool or feature; together with `kind`.")] = None,
    currency: Annotated[str | None, Query(pattern="^[A-Z]{3}$")] = None,
    every: Annotated[bool, Query(alias="all", description="Past and future versions as well.")] = False,
) -> list[PriceAnswer]:
    """List the prices in force now, with what they cost us."""
    state = state_of(request)
    async with state.database.reading(principal) as connection:
        prices = await read_prices(connection, kind, subject, currency)
    if not every:
        book, now = PriceBook.of(prices, Factors({}, byok=Decimal(0))), state.clock.now()
        prices = [p for p in prices if book.find(p.kind, p.subject, p.currency, now) == p]
    return [PriceAnswer.of(price) for price in prices]


@router.get("/{price_id}")
async def show_price(request: Request, principal: Administrator, price_id: UUID) -> PriceAnswer:
    """Show one version of a price."""
    async with state_of(request).database.reading(principal) as connection:
        found = [price for price in await read_prices(connection) if price.id == price_id]
    if not found:
        raise NoSuchPrice(f"there is no price {price_id}")
    return PriceAnswer.of(found[0])


@router.post("", status_code=201)
async def set_all_prices(request: Request, principal: Administrator, body: PricesWish) -> list[SetAnswer]:
    """Set prices: all or none. What one would overlap is refused, and so is what cannot be meant."""
    state = state_of(request)
    async with state.database.operating(principal) as connection:
        done = await set_prices(
            connection, [price.wanted() for price in body.prices], now=state.clock.now(), replace=body.replace, new_currency=body.new_currency
        )  # fmt: skip
    return [SetAnswer(**dict(PriceAnswer.of(one.price)), replaced=one.replaced) for one in done]


@router.post("/{price_id}/end", status_code=204)
async def end_one_price(request: Request, principal: Administrator, price_id: UUID, body: Ending) -> None:
    """Let a price end at an hour to come. Usage after that waits for another price: it is never billed at zero."""
    state = state_of(request)
    async with state.database.operating(principal) as connection:
        await end_price(connection, price_id, body.at, now=state.clock.now())


@router.post("/import-litellm")
async def import_litellm_prices(
    request: Request,
    principal: Administrator,
    costs: Annotated[dict[str, dict[str, Any]], JsonBody(description="model_prices_and_context_window.json")],
    *,
    dry_run: Annotated[bool, Query(description="Only say what would be done.")] = False,
    valid_from: Annotated[Hour | None, Query(description="First hour (UTC); the next full hour without it.")] = None,
    provider: Annotated[list[str] | None, Query(description="Only models of these providers.", max_length=100)] = None,
    markup_percent: Annotated[
        Amount, Query(ge=0, le=100_000, description="What is put on the costs for sale prices.")
    ] = Decimal(0),
    new_currency: Annotated[bool, Query(description="Take USD also where nobody is billed in it yet.")] = False,
) -> ImportAnswer:
    """Import LiteLLM's cost map: models that are not known yet, and the prices that differ from those in force, in USD."""
    state = state_of(request)
    read = read_cost_map(costs, markup_percent=markup_percent, providers=provider or ())
    async with state.database.operating(principal) as connection:
        done = await import_cost_map(
            connection, read, now=state.clock.now(), valid_from=valid_from, dry_run=dry_run, new_currency=new_currency
        )
    return ImportAnswer(
        dry_run=dry_run,
        valid_from=done.valid_from,
        new_models=done.new_models,
        changes=[
            ChangeAnswer(model=one.model, becomes=PriceAnswer.of(one.becomes), was=PriceAnswer.of(one.was) if one.was else None)
            for one in done.changes
        ],
        unchanged=done.unchanged,
        skipped=[SkippedAnswer(model=one.model, why=one.why) for one in done.skipped],
    )  # fmt: skip
