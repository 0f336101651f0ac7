"""The table of contents of the API: every router."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from services.api.admin.routes import router as admin
from services.api.auth.routes import router as account
from services.api.credits.writing import router as credits_writing
from services.api.events.routes import router as events
from services.api.traces.routes import router as traces
from services.api.webhooks import router as webhooks

ROUTERS: Final[tuple[APIRouter, ...]] = (account, events, traces, credits_writing, webhooks, admin)
