"""Routes about who asks."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from services.api.auth.asking import Asking
from services.api.fields import Answer

router = APIRouter(prefix="/api/v1", tags=["account"])


class Me(Answer):
    """Whom the credential of a request stands for."""

    user_id: UUID
    name: str
    roles: list[str]
    subscription_id: UUID | None
    api_key_id: UUID | None


@router.get("/me")
async def who_am_i(principal: Asking) -> Me:
    """Say whom the credential of this request stands for."""
    return Me(
        user_id=principal.user_id,
        name=principal.name,
        roles=sorted(principal.roles),
        subscription_id=principal.subscription_id,
        api_key_id=principal.key_id,
    )
