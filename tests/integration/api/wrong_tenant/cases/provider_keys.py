"""Keys at providers."""

from __future__ import annotations

from services.accounts.provider_keys.keyring import Keyring
from shared.ids import uuid7
from tests.integration.api.conftest import PROVIDER_KEY_SECRET
from tests.integration.api.wrong_tenant.stage import Stage, own, refused

KEY = "sk-victim-7f3a9c2e5b1d8f40"


async def prepare(stage: Stage) -> None:
    """The victim has a key at a provider."""
    id_, sealed = uuid7(), Keyring(PROVIDER_KEY_SECRET).seal(KEY)
    await stage.facts.pool.execute(
        """INSERT INTO user_provider_keys (id, user_id, provider, key_name, encrypted_api_key, encryption_key_id, key_hint, is_default)
           VALUES ($1, $2, 'openai', 'of the victim', $3, $4, 'zq9x', true)""",
        id_, stage.victim.user_id, sealed.token, sealed.secret_id,
    )  # fmt: skip
    stage.has("provider_key", id_)
    stage.has("key itself", KEY)
    stage.has("key hint", "zq9x")
    stage.has("key name", "of the victim")


CASES = {
    "GET /api/v1/provider-keys": own(),
    "POST /api/v1/provider-keys": own(
        json=lambda _stage: {"provider": "openai", "api_key": "sk-attacker-1234", "key_name": "mine"}
    ),
    "POST /api/v1/provider-keys/{key_id}/rotate": refused(
        key_id="provider_key", json=lambda _stage: {"api_key": "sk-attacker-1234"}
    ),
    "POST /api/v1/provider-keys/{key_id}/default": refused(key_id="provider_key"),
    "DELETE /api/v1/provider-keys/{key_id}": refused(key_id="provider_key"),
}
