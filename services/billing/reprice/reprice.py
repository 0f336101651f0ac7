"""Shows what corrected prices would change of a period's usage, and applies them.

Applying first puts the prices in force: from then on live usage of the period is rated by them. Then it corrects what the old
ones have rated, some customers at a time: each transaction finds anew what another price is in force for, so a reprice that was
interrupted is finished by applying it again, and one that is finished finds nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from services.billing.rating import store as rating
from services.billing.rating.desk.new_prices import insert_price, price_of_new
from services.billing.rating.price_file import NewPrice
from services.billing.rating.rating import Price, PriceBook
from services.billing.reprice import store
from services.billing.reprice.changes import Change, Rerated, changes, correct, corrections, edges, rerate
from services.billing.reprice.store import Scope
from shared.errors import TallystickError
from shared.ids import uuid7
from shared.period import Period, hour_start
from shared.postgres import Connection

ROWS_AT_ONCE = 20_000
"""Rated rows that one transaction of a reprice looks at, as long as one subscription has no more."""

Progress = Callable[[int, int], None]
"""Told how many subscriptions are done, of how many."""


class RepriceRefused(TallystickError):
    """Prices cannot be applied to the period as they are; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What corrected prices would change. `new_prices` are those not in force yet; `waiting` events have no price so far, and
    will be rated by the new ones where those are theirs."""

    period: Period
    new_prices: Sequence[Price]
    changes: Sequence[Change]
    waiting: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What a reprice did. Without anything to correct it has no id, and nothing was written."""

    id: UUID | None
    period: Period
    new_prices: Sequence[Price]
    changes: Sequence[Change]
    rows: int


async def preview(connection: Connection, period: Period, wanted: Sequence[NewPrice]) -> Preview:
    """Return what `wanted` would change of the usage of `period`, whose ends lie on hours. Reads only, from one snapshot.

    A wanted price without a validity of its own holds for the whole period. Raises `RepriceRefused`.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        plan = await _Plan.make(connection, period, wanted)
        rerated = [one for one, _ in await plan.look(connection)]
        return Preview(period, plan.new, changes(rerated), await plan.scope.waiting(connection))


async def apply(
    connection: Connection,
    period: Period,
    wanted: Sequence[NewPrice],
    *,
    why: str,
    by: str,
    progress: Progress = lambda _done, _all: None,
) -> Applied:
    """Put `wanted` in force for `period` and correct what was rated otherwise, as new rows of rated usage.

    What was billed already becomes adjustments of the next settlement or invoice; what was not is billed as corrected. Applying the
    same again does nothing. Raises `RepriceRefused`, also while another reprice is at work, and `PriceRefused` for an unknown model.
    """
    async with _alone(connection):
        async with connection.transaction():
            plan = await _Plan.make(connection, period, wanted)
            found = await plan.look(connection)
            if not plan.new and not found:
                return Applied(None, period, (), (), 0)
            reprice_id = uuid7()
            await plan.put_in_force(connection, note=f"reprice {reprice_id}: {why}")
            await store.begin(connection, reprice_id, period, [price.id for price in plan.new], why=why, by=by)
        new = plan.new  # the plan that is made next finds them in force
        # From here on nothing is rated by the old prices any more: what they have rated is there, and can be corrected.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            plan = await _Plan.make(connection, period, wanted)
            weights = _weights(await plan.look(connection))
        done, rows, corrected = 0, 0, []
        for subscriptions in _chunks(weights, ROWS_AT_ONCE):
            rerated, written = await _correct(connection, plan, reprice_id, subscriptions)
            corrected += rerated
            rows += written
            done += len(subscriptions)
            progress(done, len(weights))
    return Applied(reprice_id, period, new, changes(corrected), rows)


async def _correct(
    connection: Connection, plan: _Plan, reprice_id: UUID, subscriptions: Sequence[UUID]
) -> tuple[list[Rerated], int]:
    """Correct what some subscriptions' usage was rated at, in one transaction."""
    async with connection.transaction():
        groups = await plan.scope.rated_by_hour(connection, subscriptions)
        rerated = list(rerate(groups, plan.book, plan.prices))
        runs = corrections(rerated)
        ids = [uuid7() for _ in runs]
        await store.begin_runs(
            connection, reprice_id, {id_: run.takes_back for id_, run in zip(ids, runs, strict=True)}
        )
        for id_, run in zip(ids, runs, strict=True):
            await rating.insert_rated(connection, id_, run.rows)
    return rerated, sum(len(run.rows) for run in runs)


@dataclass(slots=True)
class _Plan:
    """The prices that are wanted for a period beside those that there are."""

    scope: Scope
    new: Sequence[Price]
    book: PriceBook
    prices: dict[UUID, Price]
    edges: Sequence[object]

    @classmethod
    async def make(cls, connection: Connection, period: Period, wanted: Sequence[NewPrice]) -> _Plan:
        """Read the prices, and find those of `wanted` that are not in force throughout the period."""
        if period.start != hour_start(period.start) or period.end != hour_start(period.end):
            raise RepriceRefused(f"the period {period} does not lie on whole UTC hours: prices change with the hour")
        known = await rating.read_price_book(connection, Decimal(0))
        asked = [_price(new, period) for new in wanted]
        new: list[Price] = []
        for price in asked:
            same_subject = [p for p in (*known.prices, *new) if _subject(p) == _subject(price)]
            try:
                correction = correct(price, period, same_subject)
            except ValueError as error:
                raise RepriceRefused(f"{error}: widen the period or leave the price out") from None
            if correction is not None:
                new.append(correction)
        every = [*known.prices, *new]
        concerned = [p for p in every if (p.kind, p.subject) in {(a.kind, a.subject) for a in asked}]
        tools = [p for p in every if p.kind == "tool"]  # a tool's price stands before that of its feature
        return cls(
            scope=Scope.of(period, asked),
            new=new,
            book=PriceBook.of(every, known.factors),
            prices={p.id: p for p in every},
            edges=edges([*concerned, *tools], period),
        )

    async def look(self, connection: Connection) -> list[tuple[Rerated, int]]:
        """Return what another price is in force for than the one that rated it, each with the rows behind it."""
        groups = await self.scope.rated_by_stretch(connection, self.edges)
        return [(one, rows) for group, rows in groups for one in rerate([group], self.book, self.prices)]

    async def put_in_force(self, connection: Connection, *, note: str) -> None:
        """Store the prices that are new."""
        for price in self.new:
            await insert_price(connection, price, note=note)


def _price(new: NewPrice, period: Period) -> Price:
    """Return a price that is wanted as one that can rate; without a validity of its own it holds for the whole period."""
    return price_of_new(
        new, price_id=uuid7(), valid_from=new.valid_from or period.start, valid_to=new.valid_to or period.end
    )


def _subject(price: Price) -> tuple[str, str, str]:
    return price.kind, price.subject, price.currency


def _weights(found: Iterable[tuple[Rerated, int]]) -> dict[UUID, int]:
    """Return how many rows of each subscription are to be looked at, in the order of the ids."""
    weights: dict[UUID, int] = {}
    for one, rows in found:
        subscription = one.group.key.subscription_id
        weights[subscription] = weights.get(subscription, 0) + rows
    return dict(sorted(weights.items()))


def _chunks(weights: dict[UUID, int], limit: int) -> Iterable[list[UUID]]:
    """Yield subscriptions in lots of at most `limit` rows, or of one subscription."""
    lot: list[UUID] = []
    weight = 0
    for subscription, rows in weights.items():
        if lot and weight + rows > limit:
            yield lot
            lot, weight = [], 0
        lot.append(subscription)
        weight += rows
    if lot:
        yield lot


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    if not await store.lock(connection):
        raise RepriceRefused("another reprice is at work: wait for it to end, then look at what is left with --dry-run")
    try:
        yield
    finally:
        if not connection.is_closed():
            await store.unlock(connection)
