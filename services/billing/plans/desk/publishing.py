"""Makes plans and their versions from what a person writes: taken whole, or refused with the reason and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

import asyncpg

from services.billing.plans.meters import TermsRefused, read_amount, read_meters
from shared.money import minor_unit
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.plans.desk")

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "interval": ("month", "year"),
    "billing_periods": ("anchored", "calendar"),
    "fee_timing": ("advance", "arrears"),
    "usage": ("priced", "included"),
}
"""What can be chosen; the first is what it is without a word."""
LIMITS: Final = ("requestsPerMonth", "tokensPerMonth", "concurrentRequests")
_FIELDS: Final = {
    "id", "name", "description", "features", "amount", "currency", "interval_count", "trial_days", "limits", "hard_limits", "meters", "minimum",
    "note", *CHOICES,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Published:
    """A version that was made: of a plan that is new, or from when on."""

    plan_id: str
    is_new: bool
    valid_from: datetime


def read_plan_file(path: Path) -> dict[str, Any]:
    """Return what a JSON file says of a plan, every digit kept. Raises `TermsRefused`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise TermsRefused(f"{path.name} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise TermsRefused(f"{path.name} is not one plan: write {{…}}")
    return checked(document)


def checked(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a version, completed. Raises `TermsRefused` that names what is wrong."""
    if unknown := document.keys() - _FIELDS:
        raise TermsRefused(f"'{min(unknown)}' is not part of a plan: known are {', '.join(sorted(_FIELDS))}")
    plan = {"interval_count": 1, "trial_days": 0, "limits": {}, "hard_limits": True, "meters": [], "features": []}
    plan |= {name: choices[0] for name, choices in CHOICES.items()}
    plan |= {name: value for name, value in document.items() if value is not None}
    for name, choices in CHOICES.items():
        if plan[name] not in choices:
            raise TermsRefused(f"{name} is {plan[name]!r}: {' or '.join(choices)} is expected")
    for name in ("id", "name", "currency"):
        if not isinstance(plan.get(name), str) or not plan[name]:
            raise TermsRefused(f"a plan needs a text for {name}")
    currency = cast("str", plan["currency"])
    if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
        raise TermsRefused(f"currency is {currency!r}: a three-letter code such as EUR is expected")
    if not isinstance(plan["hard_limits"], bool):
        raise TermsRefused("hard_limits is true or false")
    read_meters(cast("list[Any]", plan["meters"]))
    minimum = _money("minimum", plan["minimum"], currency) if "minimum" in plan else None
    if minimum == 0:
        raise TermsRefused("minimum is 0: leave it out where an interval may cost nothing")
    return plan | {
        "amount": _money("amount", plan.get("amount"), currency),
        "minimum": minimum,
        "interval_count": _whole("interval_count", plan["interval_count"], 1, 120),
        "trial_days": _whole("trial_days", plan["trial_days"], 0, 3650),
        "limits": _limits(plan["limits"]),
    }


def _money(name: str, given: object, currency: str) -> Decimal:
    amount = read_amount(name, given)
    if amount % minor_unit(currency):
        raise TermsRefused(f"{name} is {given}: the smallest amount of {currency} is {minor_unit(currency)}")
    return amount


def _whole(name: str, given: object, least: int, most: int) -> int:
    number = read_amount(name, given)
    if number != int(number) or not least <= number <= most:
        raise TermsRefused(f"{name} is {given}: a whole number from {least} to {most} is expected")
    return int(number)


def _limits(given: object) -> dict[str, int | None]:
    if not isinstance(given, Mapping) or given.keys() - set(LIMITS):
        raise TermsRefused(f"limits are an object of {', '.join(LIMITS)}; null is no limit")
    return {name: None if limit is None else _whole(name, limit, 0, 2**53) for name, limit in given.items()}


async def publish(connection: Connection, plan: Mapping[str, Any], *, valid_from: datetime | None = None) -> Published:
    """Make a plan, or a version of one that is there, in force from `valid_from` (a new plan: always; else from now on).

    Subscriptions go by a new version from their next billing interval on. Raises `TermsRefused` for a version of the past, and for another
    interval or currency than the plan has.
    """
    await connection.execute(SQL["plan_version_is_given"])
    is_new = await connection.fetchval(
        SQL["insert_plan"], plan["id"], plan["name"], plan.get("description"), plan["amount"], plan["currency"], plan["interval"],
        plan["interval_count"], _json(plan["features"]), _json(plan["limits"]),
    )  # fmt: skip
    if is_new and valid_from is not None:
        raise TermsRefused(f"plan {plan['id']} is new: its first version is in force at once, leave its beginning out")
    try:
        async with connection.transaction():
            begins = await connection.fetchval(
                SQL["insert_version"], plan["id"], valid_from, plan["amount"], plan["currency"], plan["interval"], plan["interval_count"],
                plan["billing_periods"], plan["fee_timing"], plan["trial_days"], _json(plan["limits"]), plan["hard_limits"], plan["usage"],
                _json(plan["meters"]), plan["minimum"], plan.get("note"),
            )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise TermsRefused(f"a version of plan {plan['id']} begins at that time already: choose another one") from None
    except asyncpg.PostgresError as error:
        if error.sqlstate == "TS003":
            raise TermsRefused(str(error)) from None
        raise
    await connection.execute(SQL["mirror_plan"], plan["id"])
    return Published(plan["id"], bool(is_new), begins)


def _json(value: object) -> str:
    return json.dumps(value, default=str)  # Decimals as text: with all their digits
