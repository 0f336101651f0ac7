"""What payment providers tell by themselves."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request

from services.api.database import BILLING
from services.api.fields import Answer
from services.api.state import state_of
from services.billing.payments.webhooks import receive_webhook

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])


class Receipt(Answer):
    """What became of a delivery: applied, nothing, waiting, refused, ignored or duplicate. All of them are taken, none needs another one."""

    event_id: str
    kind: str
    outcome: str
    payment_id: UUID | None
    detail: str | None


@router.post("/stripe")
async def receive_stripe_webhook(request: Request) -> Receipt:
    """Take a webhook of Stripe: its signature is the credential. Repeated and out of order it does no harm."""
    state = state_of(request)
    body, provider = await request.body(), state.capabilities.providers["stripe"]
    pool = await state.capabilities.pool(BILLING)
    async with pool.acquire() as connection:
        taken = await receive_webhook(connection, request.headers, body, provider=provider, now=state.clock.now())
    return Receipt(
        event_id=taken.event_id,
        kind=taken.kind,
        outcome=taken.outcome,
        payment_id=taken.payment_id,
        detail=taken.detail,
    )
