"""The table of contents of the API: every router."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from services.api.admin.routes import router as admin
from services.api.alerts.routes import router as alerts
from services.api.api_keys.routes import router as api_keys
from services.api.auth.routes import router as account
from services.api.auth.session_routes import router as sessions
from services.api.catalogue.routes import router as catalogue
from services.api.credits.reading import router as credits_reading
from services.api.credits.writing import router as credits_writing
from services.api.entitlements.routes import router as entitlements
from services.api.events.routes import router as events
from services.api.explaining.routes import router as explaining
from services.api.invoices.routes import router as invoices
from services.api.libraries.routes import router as libraries
from services.api.provider_keys.routes import router as provider_keys
from services.api.reservations.routes import router as reservations
from services.api.subscriptions.routes import router as subscriptions
from services.api.traces.routes import router as traces
from services.api.usage.routes import router as usage
from services.api.usage.streaming import router as streaming
from services.api.usage.time_zone import router as time_zone
from services.api.webhooks import router as webhooks

ROUTERS: Final[tuple[APIRouter, ...]] = (
    account,
    events,
    traces,
    entitlements,
    reservations,
    usage,
    streaming,
    time_zone,
    subscriptions,
    credits_reading,
    credits_writing,
    invoices,
    explaining,
    alerts,
    catalogue,
    sessions,
    api_keys,
    libraries,
    provider_keys,
    webhooks,
    admin,
)
