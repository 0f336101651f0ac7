"""Explains a fee that credits paid: the terms that it follows from, and whether it comes out the same again."""

from __future__ import annotations

import json
from datetime import timedelta
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.credits.fees import SQL, prepaid_fees
from services.billing.plans import store as plans
from services.billing.plans.desk.explaining import ChargeExplanation
from shared.period import Period
from shared.postgres import Connection

_INSTANT = timedelta(microseconds=1)


async def explain_prepaid_fee(connection: Connection, transaction_id: UUID) -> ChargeExplanation | None:
    """Explain the ledger entry of a prepaid subscription's fee; None for any other."""
    row = await connection.fetchrow(SQL["charge"], transaction_id)
    if row is None:
        return None
    due = Period(row["due_at"] - _INSTANT, row["due_at"] + _INSTANT)
    subscriptions = await plans.read_subscriptions(connection, due, [row["user_id"]], (), mode="prepaid")
    versions = await plans.read_plans(connection)
    again = [
        fee for one in subscriptions if one.id == row["subscription_id"] for fee in prepaid_fees(one, versions, due)
    ]
    found = next((fee.charge.amount for fee in again if fee.charge.key == row["charge_key"]), None)
    problems = []
    if found is None:
        problems.append("what the subscription was on does not give this charge any more")
    elif found != row["amount"]:
        problems.append(f"computed anew it comes to {amount_text(found)}, not {amount_text(row['amount'])}")
    paid = (
        f"{amount_text(row['debited'])} credits debited, {amount_text(row['owed'])} owed, "
        f"at {amount_text(row['credits_per_unit'])} for one {row['currency']}"
    )
    return ChargeExplanation(
        line_id=transaction_id, kind=row["kind"], title=f"{row['description']}: {paid}", currency=row["currency"],
        period=Period(row["period_start"], row["period_end"]), stated=row["amount"], recomputed=found, facts=json.loads(row["metadata"]),
        usage=(), problems=problems,
    )  # fmt: skip
