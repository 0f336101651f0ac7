"""The table of contents of the API: every router."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from services.api.auth.routes import router as account

ROUTERS: Final[tuple[APIRouter, ...]] = (account,)
