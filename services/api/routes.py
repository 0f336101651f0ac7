"""The table of contents of the API: every router."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from services.api.admin.routes import router as admin
from services.api.auth.routes import router as account
from services.api.credits.writing import router as credits_writing
from services.api.webhooks import router as webhooks

ROUTERS: Final[tuple[APIRouter, ...]] = (account, credits_writing, webhooks, admin)
