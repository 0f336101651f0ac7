"""What operators do to packages of credits: offer, change, retire. What was bought keeps the terms of its purchase."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from services.billing.amounts import amount_text
from services.billing.credits.desk.operations import SQL, CreditsRefused, checked
from shared.money import minor_unit
from shared.postgres import Connection

NAME_LENGTH = 100
"""Letters that the name of a package has at most: it stands in lists and on the provider's page."""
LARGEST = Decimal(10) ** 12


@dataclass(frozen=True, slots=True)
class Terms:
    """What a package is to be; None: as it is, or of a new one what the table says. `valid_days` and `min_tier`: 0 and '' for none."""

    credits: Decimal | None = None
    price: Decimal | None = None
    currency: str | None = None
    description: str | None = None
    valid_days: int | None = None
    min_tier: str | None = None
    sort_order: int | None = None


async def set_package(connection: Connection, name: str, terms: Terms) -> dict[str, Any]:
    """Offer a package, or change one, which is on sale from then on; return it. Raises `CreditsRefused`, and nothing has changed."""
    known = await connection.fetchrow(SQL["lock_package"], name)
    wanted = {key: value for key, value in asdict(terms).items() if value is not None}
    if known is None:
        if not 0 < len(name.strip()) <= NAME_LENGTH:
            raise CreditsRefused(f"the name of a package has between 1 and {NAME_LENGTH} letters")
        if missing := [key for key in ("credits", "price", "currency") if key not in wanted]:
            raise CreditsRefused(f"there is no package '{name}' yet: a new one needs {', '.join(missing)}")
    elif terms.currency not in (None, known["currency"]):
        raise CreditsRefused(
            f"the package '{known['name']}' is sold in {known['currency']}, and payments for it may be under way: "
            f"retire it, and offer another one in {terms.currency}"
        )
    await _check(connection, {**dict(known or {}), **wanted})
    package = {**wanted, "is_active": True}
    package |= {key: package[key] or None for key in ("valid_days", "min_tier") if key in package}
    return await _put(connection, known, name.strip() if known is None else known["name"], package)


async def retire_package(connection: Connection, name: str) -> dict[str, Any]:
    """Take a package off sale: nobody can buy it any more, also by automatic top-ups; credits that it sold stay. Raises `CreditsRefused`."""
    known = await connection.fetchrow(SQL["lock_package"], name)
    if known is None:
        raise CreditsRefused(f"there is no package '{name}': 'tallystick credits package list' shows them")
    if not known["is_active"]:
        raise CreditsRefused(f"the package '{known['name']}' is not on sale already")
    return await _put(connection, known, known["name"], {"is_active": False})


async def _check(connection: Connection, package: dict[str, Any]) -> None:
    currency = package["currency"]
    if len(currency) != 3 or not (currency.isascii() and currency.isalpha() and currency.isupper()):
        raise CreditsRefused(f"'{currency}' is no currency: give a code like EUR")
    for what, least in (("credits", Decimal(0)), ("price", Decimal(-1))):
        if not least < package[what] < LARGEST:
            raise CreditsRefused(
                f"{what} {amount_text(package[what])} cannot be: give an amount above zero and below {LARGEST:,.0f}"
            )
    checked(package["credits"])
    if package["price"] % minor_unit(currency):
        raise CreditsRefused(
            f"a price of {amount_text(package['price'])} {currency} has too many digits: the smallest amount is {minor_unit(currency)}"
        )
    if (package.get("valid_days") or 0) < 0:
        raise CreditsRefused("credits cannot be valid for less than a day: give 0 for ever")
    tier = package.get("min_tier")
    if tier and not await connection.fetchval(SQL["known_tier"], tier):
        raise CreditsRefused(f"there is no tier '{tier}': 'tallystick credits tier list' shows them")


async def _put(connection: Connection, known: Any, name: str, package: dict[str, Any]) -> dict[str, Any]:
    row = await connection.fetchrow(SQL["put_package"], name, json.dumps(package, default=str))
    before = {key: _plain(known[key]) for key in package} if known else None
    after = {key: _plain(row[key]) for key in package}
    if before != after:
        action = "credits.package_retired" if package == {"is_active": False} else "credits.package_set"
        await connection.execute(
            SQL["audit_package"],
            action,
            str(row["id"]),
            before and json.dumps(before),
            json.dumps({"name": name, **after}),
        )
    return dict(row)


def _plain(value: Any) -> Any:
    return amount_text(value) if isinstance(value, Decimal) else value
