"""The table of contents of what administrators do."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.admin import (
    audit,
    corrections,
    dunning,
    invoice_runs,
    jobs,
    libraries,
    models,
    people,
    plans,
    prices,
    reconciliation,
    repair,
    subscription_steps,
    subscriptions,
    users,
)
from services.api.admin import credits as money

router = APIRouter()
for part in (
    users,
    people,
    subscriptions,
    subscription_steps,
    plans,
    models,
    prices,
    money,
    invoice_runs,
    corrections,
    dunning,
    repair,
    jobs,
    reconciliation,
    audit,
    libraries,
):
    router.include_router(part.router)
