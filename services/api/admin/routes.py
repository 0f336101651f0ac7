"""The table of contents of what administrators do."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.admin import (
    audit,
    jobs,
    libraries,
    models,
    people,
    plans,
    prices,
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
    repair,
    jobs,
    audit,
    libraries,
):
    router.include_router(part.router)
