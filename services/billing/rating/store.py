"""Rating's IO with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.rating.rating import ONE_TOKEN_OF_1K, Component, Factors, Price, PriceBook, Rated, RatedRow
from services.billing.rating.usage import Payer, Quantities, UsageKey
from shared.contracts import UsageRecorded
from shared.errors import BrokenInvariant
from shared.money import exact
from shared.positions import Position
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.rating")


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row of rated_usage that waits for its price."""

    key: UsageKey
    rating_run_id: UUID
    used: Quantities
    currency: str


async def price_book_version(connection: Connection) -> int:
    """Return the version of the prices, and keep it from changing until the transaction ends."""
    return await connection.fetchval(SQL["price_book_version"])  # type: ignore[no-any-return]


async def read_price_book(connection: Connection, byok_factor: Decimal) -> PriceBook:
    """Read all prices and factors."""
    levels = {row["power_level"]: row["cost_multiplier"] for row in await connection.fetch(SQL["power_levels"])}
    prices = await read_prices(connection)
    return PriceBook.of(prices, Factors(levels, byok_factor))


async def read_prices(
    connection: Connection, kind: str | None = None, subject: str | None = None, currency: str | None = None
) -> list[Price]:
    """Return all price versions, or those of one kind, subject and currency, as far as they are given; by time and revision."""
    return [_price(row) for row in await connection.fetch(SQL["prices"], kind, subject, currency)]


def _price(row: Mapping[str, Any]) -> Price:
    kind, subject = next(
        (kind, row[column])
        for kind, column in (("model", "model_id"), ("tool", "tool_name"), ("feature", "feature_type"))
        if row[column] is not None
    )
    return Price(
        id=row["id"],
        kind=kind,
        subject=subject,
        currency=row["currency"],
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        input_per_1k=row["input_price_per_1k"],
        output_per_1k=row["output_price_per_1k"],
        cached_input_per_1k=row["cached_input_price_per_1k"],
        per_request=row["price_per_request"],
        bills_errors=row["bill_errors"],
        cost=_cost(row),
        revision=row["revision"],
        unit=row["unit"],
        per_unit=row["price_per_unit"],
    )


def _cost(row: Mapping[str, Any]) -> dict[Component, Decimal] | None:
    """Return the provider's price of one request, token or unit by component; None if nothing is known of it."""
    cached = row["cost_cached_input_price_per_1k"]
    per_1k: dict[Component, Decimal | None] = {
        "input": row["cost_input_price_per_1k"],
        "cached_input": row["cost_input_price_per_1k"] if cached is None else cached,
        "output": row["cost_output_price_per_1k"],
    }
    with exact():
        cost = {component: price * ONE_TOKEN_OF_1K for component, price in per_1k.items() if price is not None}
    if row["cost_price_per_request"] is not None:
        cost["requests"] = row["cost_price_per_request"]
    if row["cost_price_per_unit"] is not None:
        cost["units"] = row["cost_price_per_unit"]
    return cost or None


async def read_payers(connection: Connection, subscriptions: Collection[UUID]) -> dict[UUID, Payer]:
    """Return who pays for each subscription. Raises `BrokenInvariant` for one that does not exist: nobody would pay."""
    rows = await connection.fetch(SQL["payers"], list(subscriptions))
    payers = {row["id"]: Payer(row["user_id"], row["billing_mode"], row["currency"], row["balance"]) for row in rows}
    if missing := set(subscriptions) - payers.keys():
        raise BrokenInvariant(
            f"usage of subscription {min(missing)} is recorded, but there is no such subscription: restore it, then billing goes on"
        )
    return payers


async def begin_run(connection: Connection, run_id: UUID, cluster: str, at: Position, next_offset: int) -> None:
    """Begin a rating run of the messages from a position up to `next_offset`."""
    await connection.execute(
        SQL["begin_run"], run_id, cluster, at.topic, at.partition, at.epoch, at.next_offset, next_offset
    )


async def receive(connection: Connection, run_id: UUID, messages: Sequence[UsageRecorded]) -> list[UsageRecorded]:
    """Note messages as rated by a run; return those that were never rated, each once."""
    by_identity = {(m.batch_id, m.part): m for m in messages}
    rows = await connection.fetch(
        SQL["receive"],
        run_id,
        [batch_id for batch_id, _ in by_identity],
        [part for _, part in by_identity],
        [m.event_count for m in by_identity.values()],
    )
    return [by_identity[row["batch_id"], row["part"]] for row in rows]


_COLUMNS = (
    *UsageKey._fields, "rating_run_id", "user_id", "billing_mode", "requests", "errors", "request_tokens",
    "response_tokens", "cached_tokens", "tokens_returned", "latency_ms", "first_event_at", "last_event_at", "price_id", "multiplier",
    "currency", "amount", "cost_amount",
)  # fmt: skip


async def insert_rated(connection: Connection, run_id: UUID, rows: Sequence[RatedRow]) -> None:
    """Append rated (and held) usage, in the order of its keys."""
    if rows:
        await connection.copy_records_to_table("rated_usage", columns=_COLUMNS, records=_records(run_id, rows))


def _records(run_id: UUID, rows: Sequence[RatedRow]) -> Iterator[tuple[Any, ...]]:
    for key, used, payer, rated in rows:
        yield (
            *key, run_id, payer.user_id, payer.billing_mode, used.requests, used.errors, used.request_tokens,
            used.response_tokens, used.cached_tokens, used.tokens_returned, used.latency_ms, used.first_event_at, used.last_event_at,
            rated and rated.price.id, rated and rated.multiplier, payer.currency, rated and rated.amount, rated and rated.cost,
        )  # fmt: skip


async def lock_ratable(connection: Connection, limit: int) -> list[HeldRow]:
    """Take held usage that can be rated by now, at most `limit` rows."""
    return [_held_row(row) for row in await connection.fetch(SQL["lock_ratable"], limit)]


def _held_row(row: Mapping[str, Any]) -> HeldRow:
    used = Quantities(
        requests=row["requests"],
        errors=row["errors"],
        request_tokens=row["request_tokens"],
        response_tokens=row["response_tokens"],
        cached_tokens=row["cached_tokens"],
        tokens_returned=row["tokens_returned"],
        latency_ms=row["latency_ms"],
    )
    return HeldRow(UsageKey(*(row[name] for name in UsageKey._fields)), row["rating_run_id"], used, row["currency"])


async def rate_held(connection: Connection, rows: Sequence[tuple[HeldRow, Rated]]) -> None:
    """Store what held rows are worth."""
    if rows:
        keys = zip(*((*held.key, held.rating_run_id) for held, _ in rows), strict=True)
        results = zip(*((r.price.id, r.multiplier, r.price.currency, r.amount, r.cost) for _, r in rows), strict=True)
        await connection.execute(SQL["rate_held"], *map(list, keys), *map(list, results))


async def count_held(connection: Connection) -> tuple[int, datetime | None]:
    """Return how many events wait for a price, and the earliest hour of their usage."""
    row = await connection.fetchrow(SQL["held"])
    return row["events"], row["since"]
