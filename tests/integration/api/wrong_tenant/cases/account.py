"""Who asks, and API keys."""

from __future__ import annotations

from tests.integration.api.wrong_tenant.stage import own, public

CASES = {
    "GET /api/v1/me": own(),
    "GET /api/v1/openapi.json": public(),
}
