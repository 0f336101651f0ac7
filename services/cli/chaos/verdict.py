"""The database, compared with the books: every row, summary, counter, account and invoice, and why records were refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from services.billing.reconciliation import Check
from services.cli.chaos.books import Books, Usage
from services.cli.chaos.stage import SQL
from services.cli.chaos.world import ITEMS, POWER_LEVELS
from shared.money import round_money
from shared.postgres import Connection

_LONG_SECONDS = 1_800


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison came to: figures in events, and every statement that was checked."""

    lost: int
    doubled: int
    unbilled: int
    double_billed: int
    invoices: int
    checks: list[Check]


async def judge(connection: Connection, books: Books) -> Verdict:
    """Compare everything. The pipeline must have come to rest, and every period be closed."""
    stored = await _stored(connection, books)
    expected = {_key(books, kind): used for kind, used in books.entries()}
    requests = _by_subscription(expected)
    rated = {row["subscription_id"]: row for row in await connection.fetch(SQL["rated"], timeout=_LONG_SECONDS)}
    billed = {id_: row["requests"] for id_, row in rated.items()}
    invoices = await connection.fetch(SQL["invoices"], timeout=_LONG_SECONDS)
    checks = [
        compare("log", expected, stored),
        compare("summaries of days", _summaries(expected), await _summarised(connection, books)),
        compare("rated requests", requests, billed),
        compare("rated amounts", _amounts(books), {id_: row["amount"] for id_, row in rated.items()}),
        *await _accounts(connection, books),
        *await _counters(connection, books),
        *_invoices(books, invoices, await connection.fetch(SQL["invoiced"])),
        *await _others(connection, books),
    ]
    kept = _by_subscription(stored)
    return Verdict(
        lost=_missing(requests, kept), doubled=_missing(kept, requests),
        unbilled=_missing(requests, billed), double_billed=_missing(billed, requests),
        invoices=len(invoices), checks=checks,
    )  # fmt: skip


def compare(name: str, expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> Check:
    """Compare (pure) two sides key by key; the sums of a check are its numbers of keys."""
    differing = [
        f"{key}: {expected.get(key, 'nothing')} by the books, {found.get(key, 'nothing')} in the database"
        for key in sorted(expected.keys() | found.keys(), key=str)
        if expected.get(key) != found.get(key)
    ]
    return Check(
        f"books = {name}", f"What the books say of {name} is what the database holds.",
        "in the books", len(expected), "in the database", len(found), tuple(differing[:5]),
    )  # fmt: skip


def _missing(one: Mapping[str, int], other: Mapping[str, int]) -> int:
    return sum(max(0, count - other.get(key, 0)) for key, count in one.items())


def _id(books: Books, number: int) -> str:
    return str(books.world.subscriptions[number].id)


def _key(books: Books, kind: Any) -> tuple[Any, ...]:
    return (
        _id(books, kind.subscription), kind.day, ITEMS[kind.item].name, POWER_LEVELS[kind.power][0], kind.byok, kind.ok,
    )  # fmt: skip


async def _stored(connection: Connection, books: Books) -> dict[tuple[Any, ...], Usage]:
    rows = await connection.fetch(SQL["stored"], books.world.run, books.world.start, timeout=_LONG_SECONDS)
    return {
        (r["subscription_id"], r["day"], r["item"], r["power_level"], r["byok"], r["ok"]): Usage(
            r["requests"], r["request_tokens"], r["response_tokens"], r["cached_tokens"], r["latency_ms"]
        )
        for r in rows
        if any((r["requests"], r["request_tokens"], r["response_tokens"], r["cached_tokens"], r["latency_ms"]))
    }


def _by_subscription(usage: Mapping[tuple[Any, ...], Usage]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for key, used in usage.items():
        found[key[0]] += used.requests
    return dict(found)


def _summaries(expected: Mapping[tuple[Any, ...], Usage]) -> dict[tuple[Any, ...], tuple[int, Usage]]:
    """Fold the log's kinds into what a summary tells apart; the first number is the failed requests."""
    found: dict[tuple[Any, ...], tuple[int, Usage]] = defaultdict(lambda: (0, Usage()))
    for (subscription, day, item, _, _, ok), used in expected.items():
        errors, sums = found[subscription, day, item]
        found[subscription, day, item] = (errors + (0 if ok else used.requests), sums + used)
    return dict(found)


async def _summarised(connection: Connection, books: Books) -> dict[tuple[Any, ...], tuple[int, Usage]]:
    return {
        (r["subscription_id"], r["day"], r["item"]): (
            r["error_count"],
            Usage(
                r["request_count"], r["request_tokens"], r["response_tokens"], r["cached_tokens"], r["latency_sum_ms"]
            ),
        )
        for r in await connection.fetch(SQL["summarised"], books.world.start)
        if r["request_count"] or r["request_tokens"] or r["latency_sum_ms"]
    }


def _amounts(books: Books) -> dict[str, Decimal]:
    return {_id(books, number): amount for number, amount in books.amounts().items()}


async def _accounts(connection: Connection, books: Books) -> list[Check]:
    rows = await connection.fetch(SQL["accounts"])
    settled = {row["user_id"]: row["amount"] for row in await connection.fetch(SQL["settled"]) if row["amount"]}
    expected = books.accounts()
    granted = {str(s.customer.id): s.customer.credits or Decimal(0) for s in books.prepaid()}
    used = {user: granted[user] - balance + owed for user, (balance, owed) in expected.items()}
    return [
        compare("credit accounts (balance, owed)", expected, {r["user_id"]: (r["balance"], r["owed"]) for r in rows}),
        compare("settlements in the ledger", {u: amount for u, amount in used.items() if amount}, settled),
    ]


async def _counters(connection: Connection, books: Books) -> list[Check]:
    rows = await connection.fetch(SQL["counters"])
    counters = {_id(books, number): used for number, used in books.counters().items()}
    suspended = {
        r["subscription_id"]: tuple(sorted(r["suspended_reasons"])) for r in rows if r["status"] == "suspended"
    }
    used = {r["subscription_id"]: (r["used_requests"], r["used_tokens"]) for r in rows}
    return [compare("counters of quotas", counters, used), compare("suspensions", books.suspended(), suspended)]


def _invoices(books: Books, invoices: Sequence[Any], sums: Sequence[Any]) -> list[Check]:
    invoiced = {row["user_id"]: row["amount"] for row in sums}
    periods = Counter((i["user_id"], i["currency"], i["period_start"], i["period_end"]) for i in invoices)
    numbers: dict[str, list[int]] = defaultdict(list)
    for invoice in invoices:
        head, _, tail = str(invoice["number"]).rpartition("-")
        numbers[head].append(int(tail))
    wrong = {
        i["number"]: (i["lines_exact"], i["lines_amount"], i["subtotal"] + i["tax"])
        for i in invoices
        if (i["lines_exact"], i["lines_amount"]) != (i["exact_subtotal"], i["subtotal"])
        or i["total"] != i["subtotal"] + i["tax"]
        or i["subtotal"] != round_money(i["exact_subtotal"], i["currency"])
    }
    gapless = {head: list(range(1, len(found) + 1)) for head, found in numbers.items()}
    return [
        compare("what invoices come to, by customer", books.invoiced(), invoiced),
        compare("one invoice for each customer and period", {}, {p: n for p, n in periods.items() if n > 1}),
        compare("gapless numbers of invoices", gapless, {head: sorted(found) for head, found in numbers.items()}),
        compare("sums and rounding of each invoice", {}, wrong),
    ]


async def _others(connection: Connection, books: Books) -> list[Check]:
    refused = {row["reason"]: row["records"] for row in await connection.fetch(SQL["quarantined"])}
    counted = await connection.fetchrow(SQL["counted"], timeout=_LONG_SECONDS)
    expected = {"duplicates": books.duplicates, "held": books.held, "gaps": books.announced_losses}
    return [
        compare("quarantined records by reason", dict(books.refused), refused),
        compare("duplicates, held events and announced losses", expected, dict(counted)),
    ]
