"""What is read: usage, subscriptions, credits, invoices, reasons, alerts; catalogues are everybody's."""

from __future__ import annotations

from decimal import Decimal

from tests.integration.api.conftest import NOW
from tests.integration.api.reading.usage_facts import event, use
from tests.integration.api.wrong_tenant.stage import Case, Stage, own, refused
from tests.integration.schema_facts import NOON, insert, make_invoice


async def prepare(stage: Stage) -> None:
    """Let the victim have usage, credits, an invoice and an alert."""
    victim, pool = stage.victim, stage.facts.pool
    stage.has("request", "the-victims-request")
    await use(pool, victim.subscription_id, event(NOW, request_id="the-victims-request", model_id="the-victims-model"))
    stage.has("model", "the-victims-model")
    async with pool.acquire() as connection:
        await connection.execute("SELECT add_user_credits($1::uuid, 4711.25, idempotency_key => 'a')", victim.user_id)
        alert = await insert(
            connection, "billing_alerts", user_id=victim.user_id, type="low_balance", message="-", threshold=Decimal(1)
        )
        invoice = await make_invoice(
            connection, victim.user_id, number="INV-2026-004711", status="sent", issue_date=NOON, due_date=NOON
        )
    stage.has("invoice", invoice)
    stage.has("number", "INV-2026-004711")
    stage.has("summary", f"{victim.subscription_id}/day/2026-11-20")
    stage.has("balance", "4711.25")
    stage.has("alert", alert["id"])


def of_the_victim() -> Case:
    """The victim is named as the one whose things are asked for."""
    return refused(query=lambda stage: {"user_id": stage.things["user"]})


def of_its_subscription() -> Case:
    """The victim's subscription is named."""
    return refused(query=lambda stage: {"subscription_id": stage.things["subscription"]})


CASES = {
    "GET /api/v1/usage": of_its_subscription(),
    "GET /api/v1/analytics/usage": of_its_subscription(),
    "GET /api/v1/usage/events": of_its_subscription(),
    "GET /api/v1/me/time-zone": own(),
    "PUT /api/v1/me/time-zone": own(json=lambda _stage: {"time_zone": "Asia/Tokyo"}),
    "GET /api/v1/usage/stream": of_the_victim(),
    "GET /api/v1/subscriptions": of_the_victim(),
    "GET /api/v1/subscriptions/{subscription_id}": refused(subscription_id="subscription"),
    "GET /api/v1/quotas": of_its_subscription(),
    "GET /api/v1/credits/balance": of_the_victim(),
    "GET /api/v1/credits/transactions": of_the_victim(),
    "GET /api/v1/credits/grants": of_the_victim(),
    "GET /api/v1/credits/packages": own(),
    "GET /api/v1/invoices": of_the_victim(),
    "GET /api/v1/invoices/current": of_the_victim(),
    "GET /api/v1/invoices/{reference}": refused(reference="invoice"),
    "GET /api/v1/invoices/{reference}/{form}": refused(reference="number", form="pdf"),
    "GET /api/v1/credit-notes": of_the_victim(),
    "GET /api/v1/credit-notes/{reference}": refused(reference="number"),
    "GET /api/v1/credit-notes/{reference}/{form}": refused(reference="number", form="pdf"),
    "GET /api/v1/explain/{what}": refused(what="number"),
    "GET /api/v1/explained-events/{what}": refused(what="summary"),
    "GET /api/v1/alerts": of_the_victim(),
    "PUT /api/v1/alerts/{alert_id}/read": refused(alert_id="alert"),
    "POST /api/v1/alerts/read": own(json=lambda _stage: {"until": "2030-01-01T00:00:00Z"}),
    "GET /api/v1/models": own(),
    "GET /api/v1/prices": own(),
    "GET /api/v1/plans": own(),
    "GET /api/v1/power-levels": own(),
    "GET /api/v1/providers/health": own(),
}
