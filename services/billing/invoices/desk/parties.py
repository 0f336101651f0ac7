"""Legal entities and billing profiles: who issues invoices and how customers receive them. What cannot be right is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import asyncpg

from services.billing.invoices.vat import parse_iban, parse_vat_id
from shared.errors import TallystickError
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.invoices.desk")
_NEW_ENTITY: dict[str, Any] = {"tax_rate": 0, "late_usage": "adjustment", "issue_zero_invoices": True, "language": "en"}
_NEW_PROFILE: dict[str, Any] = {"tax_treatment": "standard", "metadata": {}}
_REASONS = {
    "reverse_charge_has_vat_id": "reverse charge needs the customer's VAT number: give --vat-id",
    "exemption_has_reason": "an exemption needs its reason, which is printed: give --exemption-reason",
    "only_standard_is_taxed": "reverse charge and exemption have no rate: give --tax-rate '' with it",
    "taxed_by_who_is_registered": "who charges tax has a VAT number or a tax number: give --vat-id or --tax-number",
    "billing_profiles_entity_fkey": "there is no such legal entity: `tallystick invoice entity` lists them",
    "legal_entities_invoice_prefix_key": "another legal entity has this prefix: numbers must differ",
}


class PartyRefused(TallystickError):
    """What was to be noted of an entity or a customer cannot be right; nothing changed."""


async def find_user(connection: Connection, who: str) -> asyncpg.Record:
    """Return id, email and full_name of the user of an id or an e-mail address. Raises `PartyRefused`."""
    row = await connection.fetchrow(SQL["find_user"], who)
    if row is None:
        raise PartyRefused(f"there is no user {who}: give an id or an e-mail address")
    return row


async def entities(connection: Connection) -> list[dict[str, Any]]:
    """Return all legal entities."""
    return [json.loads(row[0]) for row in await connection.fetch(SQL["entities"])]


async def set_entity(connection: Connection, id_: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Make or change a legal entity; a change to None clears. Returns it whole. Raises `PartyRefused`, `InvalidIdentifier`."""
    known = await connection.fetchval(SQL["entity"], id_)
    before = json.loads(known) if known else {**_NEW_ENTITY, "id": id_, "invoice_prefix": id_.upper()}
    after = _checked({**before, **changes})
    if not after.get("name"):
        raise PartyRefused(f"legal entity {id_} is new: give its --name")
    await _put(connection, "put_entity", after)
    return after


async def set_profile(connection: Connection, who: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Make or change how a customer is invoiced; a change to None clears. Returns it whole. Raises as `set_entity`."""
    user = await find_user(connection, who)
    known = await connection.fetchval(SQL["profile"], user["id"])
    new = {**_NEW_PROFILE, "user_id": str(user["id"]), "name": user["full_name"] or user["email"]}
    after = _checked({**(json.loads(known) if known else new), **changes})
    if changes:
        await _put(connection, "put_profile", after)
    return after


async def profile_of(connection: Connection, user_id: UUID) -> dict[str, Any] | None:
    """Return how a customer is invoiced, if somebody said so."""
    known = await connection.fetchval(SQL["profile"], user_id)
    return json.loads(known) if known else None


def parse_rate(text: str) -> Decimal:
    """Return a tax rate, written as 19% or 0.19, as a fraction. Raises `PartyRefused`."""
    try:
        rate = Decimal(text.rstrip("% ")) / (100 if text.rstrip().endswith("%") else 1)
    except InvalidOperation:
        raise PartyRefused(f"'{text}' is not a tax rate: write 19% or 0.19") from None
    if not 0 <= rate <= 1:
        raise PartyRefused(f"a tax rate of {text} is outside 0 to 100 %: write 19% or 0.19")
    return rate


def _checked(party: dict[str, Any]) -> dict[str, Any]:
    """Return a party with its identifiers in their one form."""
    if party.get("country"):
        party["country"] = party["country"].upper()
    if party.get("vat_id"):
        party["vat_id"] = parse_vat_id(party["vat_id"], party.get("country"))
    if party.get("iban"):
        party["iban"] = parse_iban(party["iban"])
    if party.get("bic"):
        party["bic"] = party["bic"].replace(" ", "").upper()
    return party


async def _put(connection: Connection, query: str, party: Mapping[str, Any]) -> None:
    try:
        await connection.execute(SQL[query], json.dumps(party, default=str))
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as error:
        raise PartyRefused(
            _REASONS.get(error.constraint_name or "", f"that cannot be right: {error.args[0]}")
        ) from None
    except asyncpg.PostgresError as error:
        if error.sqlstate != "TS003":
            raise
        raise PartyRefused(f"{error.args[0]}. {error.hint}") from None
