"""What somebody may use, and what they reserved."""

from __future__ import annotations

from services.api.reservations import Ask, Reserver
from shared.clock import FixedClock
from tests.integration.api.wrong_tenant.stage import Stage, own, refused


async def prepare(stage: Stage) -> None:
    """Let the victim have reserved something."""
    reserver = Reserver(stage.facts.pool, FixedClock(stage.facts.clock.now()))
    answer = await reserver.reserve(Ask(stage.victim.subscription_id, tokens=7))
    assert answer.reservation is not None
    stage.has("reservation", answer.reservation.id)


CASES = {
    "GET /api/v1/entitlements/{subscription_id}": refused(subscription_id="subscription"),
    "POST /api/v1/entitlements/check": refused(json=lambda stage: {"api_key_id": stage.things["key"]}),
    "POST /api/v1/reservations": refused(json=lambda stage: {"subscription": stage.things["subscription"]}),
    "POST /api/v1/reservations/batch": own(
        json=lambda stage: {
            "reservations": [{"subscription": stage.things["subscription"]}, {"api_key_id": stage.things["key"]}]
        }
    ),
    "GET /api/v1/reservations/{reservation_id}": refused(reservation_id="reservation"),
    "DELETE /api/v1/reservations/{reservation_id}": refused(reservation_id="reservation"),
}
