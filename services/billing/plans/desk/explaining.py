"""Explains a charge of a plan: the terms it follows from, the usage lines behind it, and whether it comes out the same again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.billing.amounts import amount_text
from services.billing.plans.due import charges_then
from services.billing.plans.meters import Meter
from services.billing.plans.store import read_plans
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.plans.desk")


@dataclass(frozen=True, slots=True)
class UsageLine:
    """A usage line with what of it lies behind a charge: all its events, and of those that succeeded requests and tokens."""

    id: UUID
    number: str
    position: int
    description: str
    events: int
    requests: int
    request_tokens: int
    response_tokens: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class ChargeExplanation:
    """What is behind a charge: `facts` of the terms that made it, the usage lines that it counts, and what it comes to computed anew.

    `recomputed` is None where the history gives no such charge any more. `problems` says loudly what does not agree.
    """

    line_id: UUID
    kind: str
    title: str
    currency: str
    period: Period
    stated: Decimal
    recomputed: Decimal | None
    facts: Mapping[str, Any]
    usage: Sequence[UsageLine]
    problems: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether the charge comes out the same again, to the last digit."""
        return not self.problems


async def explain_charge(connection: Connection, line_id: UUID) -> ChargeExplanation | None:
    """Explain an invoice line that bills a charge; None for a line that bills none, or was voided for rebilling."""
    line = await connection.fetchrow(SQL["charge_line"], line_id)
    if line is None or line["charge_key"] is None or line["subscription_id"] is None or line["period_start"] is None:
        return None
    facts = json.loads(line["dimensions"])
    usage = await _usage(connection, line, facts) if _counts_usage(line) else []
    again = await charges_then(
        connection, Period(line["from_"], line["upto"]), user_id=line["user_id"], subscription_id=line["subscription_id"],
        since=line["period_start"], invoice_id=line["invoice_id"],
    )  # fmt: skip
    found = next((charge.amount for charge in again if charge.key == line["charge_key"]), None)
    problems = []
    if found is None:
        problems.append("what the subscription was on does not give this charge any more")
    elif found != line["exact_amount"]:
        problems.append(f"computed anew it comes to {amount_text(found)}, not {amount_text(line['exact_amount'])}")
    return ChargeExplanation(
        line_id=line_id,
        kind=line["kind"],
        title=f"{line['description']}, invoice {line['number']}",
        currency=line["currency"],
        period=Period(line["period_start"], line["period_end"]),
        stated=line["exact_amount"],
        recomputed=found,
        facts=facts,
        usage=usage,
        problems=problems,
    )


def _counts_usage(line: asyncpg.Record) -> bool:
    """Tell whether usage is behind a charge: not where a fee, or what is taken off one, is."""
    name = line["charge_key"].partition(":")[0]
    return name not in ("fee", "proration", "discount")


async def _usage(connection: Connection, line: asyncpg.Record, facts: Mapping[str, Any]) -> list[UsageLine]:
    meter = await _meter(connection, facts)
    named = [sorted(names) for names in (meter.models, meter.tools, meter.features)] if meter else [[], [], []]
    rows = await connection.fetch(
        SQL["claimed_usage"],
        line["subscription_id"],
        line["period_start"],
        line["period_end"],
        line["invoice_id"],
        *named,
    )
    return [UsageLine(**row) for row in rows]


async def _meter(connection: Connection, facts: Mapping[str, Any]) -> Meter | None:
    versions = (await read_plans(connection)).get(facts.get("plan") or "")
    for terms in versions.terms if versions else ():
        if str(terms.id) == facts.get("plan_version"):
            return next((meter for meter in terms.meters if meter.key == facts.get("meter")), None)
    return None
