"""The table of contents of what administrators do."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.admin import credits as money
from services.api.admin import subscriptions

router = APIRouter()
for part in (subscriptions, money):
    router.include_router(part.router)
