"""The model of the fault harness: what it says of records is what ingest's rules say of them, and comparing with it can fail."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice

from services.cli.chaos.books import Books, Kind, Usage, price_of
from services.cli.chaos.poison import POISON
from services.cli.chaos.traffic import Traffic
from services.cli.chaos.verdict import compare
from services.cli.chaos.world import CHANGE_DAY, make_world
from services.cli.demo.record import Record
from services.ingest.acceptance import Limits, Rejected, accept

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WORLD = make_world(1, NOW)


def drawn(records: int, seed: int = 1) -> tuple[Traffic, list[Record]]:
    """The first records of a seed, and the traffic with its books."""
    traffic = Traffic(WORLD, seed, records)
    return traffic, list(islice(traffic.records(), records))


def test_a_seed_decides_every_byte() -> None:
    assert drawn(3_000)[1] == drawn(3_000)[1]
    assert drawn(3_000)[1] != drawn(3_000, seed=2)[1]


def test_ingest_refuses_what_the_books_say_and_nothing_else() -> None:
    traffic, records = drawn(40_000)
    limits = Limits()
    found = [accept(r.value, list(r.headers), limits, *limits.window(NOW)) for r in records]
    refused = Counter(str(verdict.reason) for verdict in found if isinstance(verdict, Rejected))

    later = {"conflict", "already_voided"}  # what only the log can tell
    assert refused == {reason: count for reason, count in traffic.books.refused.items() if reason not in later}
    assert set(traffic.books.record_faults) >= set(POISON)
    assert traffic.books.published == len(records)


def test_events_that_are_taken_back_count_for_nothing() -> None:
    books, kind = Books(WORLD), Kind(0, 3, 0, 0, byok=False, ok=True)
    for _ in range(2):
        books.accept(kind, 100, 10, 5, 7)
    books.correct("voids", kind, (100, 10, 5, 7))
    assert dict(books.entries()) == {kind: Usage(1, 100, 10, 5, 7)}

    books.correct("amends", kind, (100, 10, 5, 7), (kind._replace(ok=False), (1, 1, 0, 2)))
    assert dict(books.entries()) == {kind._replace(ok=False): Usage(1, 1, 1, 0, 2)}
    assert books.events == 1


def test_prices_change_on_their_day_and_failures_cost_nothing() -> None:
    used = Usage(2, 2_000, 1_000, 500, 0)
    kind = Kind(0, CHANGE_DAY - 1, 0, 0, byok=False, ok=True)

    assert price_of(kind, used) == Decimal("0.003") * Decimal("1.5") + Decimal("0.0003") * Decimal("0.5") + Decimal(
        "0.015"
    )
    assert price_of(kind._replace(day=CHANGE_DAY), used) < price_of(kind, used)
    assert price_of(kind._replace(power=2), used) == price_of(kind, used) * Decimal("1.5")
    assert price_of(kind._replace(ok=False), used) == price_of(kind._replace(byok=True), used) == 0


def test_what_credits_do_not_cover_is_owed() -> None:
    books = Books(WORLD)
    poor = next(s for s in books.prepaid() if s.customer.credits == 2)
    books.accept(Kind(poor.number, 3, 0, 0, byok=False, ok=True), 100_000, 0, 0, 1)

    owed = Decimal("0.27") * 10 - 2
    assert books.accounts()[str(poor.customer.id)] == (Decimal(0), owed)
    assert books.suspended()[str(poor.id)] == ("credits_exhausted",)


def test_a_difference_of_one_key_is_found_though_sums_are_equal() -> None:
    assert compare("rows", {"a": 1, "b": 2}, {"a": 1, "b": 2}).holds
    assert not compare("rows", {"a": 1, "b": 2}, {"a": 2, "b": 1}).holds
    assert not compare("rows", {"a": 1}, {}).holds
    assert not compare("rows", {}, {"a": 1}).holds
