"""Webhooks: what a provider tells us by itself. Verified, stored by the provider's event id, applied in the same transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import structlog

from services.billing.payments.methods import apply_method_report
from services.billing.payments.provider import (
    MethodReport,
    MoneyReport,
    PaymentProvider,
    ProviderEvent,
    ProviderName,
)
from services.billing.payments.reports import Applied, Contradiction, apply_report, encode_report
from services.billing.payments.store import SQL
from shared.postgres import Connection

log = structlog.get_logger("billing.payments")

EventOutcome = Literal["applied", "nothing", "waiting", "refused", "ignored", "duplicate"]


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a delivery. `duplicate`: it was delivered before, and nothing was done now."""

    event_id: str
    kind: str
    outcome: EventOutcome
    payment_id: UUID | None = None
    detail: str | None = None


async def receive_webhook(
    connection: Connection, headers: Mapping[str, str], body: bytes, *, provider: PaymentProvider, now: datetime
) -> Received:
    """Take a delivery, as its bytes came. Answer the provider 200 for every result, 400 for `WebhookRefused`.

    Any other error is ours: nothing was stored, and the provider delivers again. Deliveries may be repeated and come in any order.
    """
    event = provider.parse_webhook(headers, body)
    async with connection.transaction():
        digest = hashlib.sha256(body).digest()
        new = await connection.fetchval(
            SQL["receive_event"], provider.name, event.id, event.kind, event.occurred_at, now, digest
        )
        if new is None:
            return Received(event.id, event.kind, "duplicate")
        received = await _apply(connection, provider.name, event)
        waits = received.outcome == "waiting"
        report = event.report
        await connection.execute(
            SQL["judge_event"], provider.name, event.id, received.outcome, received.detail, received.payment_id,
            report.transaction_id if waits and isinstance(report, MoneyReport) else None,
            encode_report(report) if waits and isinstance(report, MoneyReport) else None,
        )  # fmt: skip
    log.info("webhook_received", provider=provider.name, kind=event.kind, event_id=event.id, outcome=received.outcome)
    return received


async def _apply(connection: Connection, provider: ProviderName, event: ProviderEvent) -> Received:
    report = event.report
    if report is None:
        return Received(event.id, event.kind, "ignored")
    if isinstance(report, MethodReport):
        changed = await apply_method_report(connection, provider, report, at=event.occurred_at)
        return Received(event.id, event.kind, "applied" if changed else "nothing")
    try:
        async with connection.transaction():
            applied = await _apply_report(connection, provider, report, at=event.occurred_at)
    except Contradiction as contradiction:
        log.error("webhook_contradicts", provider=provider, event_id=event.id, detail=str(contradiction))
        return Received(event.id, event.kind, "refused", detail=str(contradiction))
    if applied.payment is None:
        outcome: EventOutcome = "waiting" if report.transaction_id else "ignored"
        return Received(event.id, event.kind, outcome, detail="no payment of ours is known by that id")
    return Received(event.id, event.kind, "applied" if applied.changed else "nothing", applied.payment.id)


async def _apply_report(
    connection: Connection, provider: ProviderName, report: MoneyReport, *, at: datetime
) -> Applied:
    applied = await apply_report(connection, provider, report, at=at)
    if applied.payment is None and report.transaction_id:
        # What makes the payment known takes this lock, too, before it looks for who waits: neither misses the other.
        await connection.execute(SQL["lock_transaction"], f"{provider} {report.transaction_id}")
        applied = await apply_report(connection, provider, report, at=at)
    return applied
