"""What moves credits."""

from __future__ import annotations

from tests.integration.api.wrong_tenant.stage import closed, public, refused

KEY = {"Idempotency-Key": "wrong-tenant"}

CASES = {
    "POST /api/v1/credits/purchase": refused(
        json=lambda stage: {"package": "Starter Pack", "user": stage.things["user"]}, headers=KEY
    ),
    "POST /api/v1/credits/debit": closed(),
    "POST /api/v1/webhooks/stripe": public(json=lambda _stage: {}),
}
