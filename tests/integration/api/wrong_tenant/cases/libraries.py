"""Libraries: catalogues, the same for everybody."""

from __future__ import annotations

from tests.integration.api.wrong_tenant.stage import own

CASES = {
    "GET /api/v1/libraries": own(),
    "GET /api/v1/libraries/{library_id}": own(),
}
