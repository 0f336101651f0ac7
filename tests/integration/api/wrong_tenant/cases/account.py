"""Who asks, and API keys."""

from __future__ import annotations

from tests.integration.api.wrong_tenant.stage import own, public, refused

CASES = {
    "GET /api/v1/me": own(),
    "GET /api/v1/api-keys": own(query=lambda stage: {"subscription_id": stage.things["subscription"]}),
    "POST /api/v1/api-keys": refused(json=lambda stage: {"subscription_id": stage.things["subscription"]}),
    "POST /api/v1/api-keys/{key_id}/rotate": refused(key_id="key"),
    "DELETE /api/v1/api-keys/{key_id}": refused(key_id="key"),
    "POST /api/v1/sessions": public(json=lambda _stage: {"email": "nobody@example.com", "password": "a"}),
    "POST /api/v1/sessions/refresh": public(json=lambda _stage: {"refresh_token": "tsr_nobody_has_this_token"}),
    "DELETE /api/v1/sessions": own(),
    "GET /api/v1/openapi.json": public(),
}
