"""Makes what recognises tokens from the settings."""

from __future__ import annotations

from datetime import timedelta

from services.api.auth.oidc.claims import ASYMMETRIC, RoleNames
from services.api.auth.oidc.keys import Keys, is_safe, tls_context
from services.api.auth.oidc.tokens import OidcTokens
from services.api.auth.tokens import NoTokens, Tokens
from services.api.settings import Settings
from shared.clock import Clock
from shared.errors import ConfigurationError
from shared.postgres import Pool


def tokens_of(settings: Settings, pool: Pool, clock: Clock) -> Tokens:
    """Return what recognises tokens of the identity provider; where none is set, none is valid. Raises `ConfigurationError`."""
    if not settings.oidc_issuer:
        return NoTokens()
    if not settings.oidc_audience:
        raise ConfigurationError(
            "TALLYSTICK_OIDC_AUDIENCE is missing: without it, tokens for other services would be valid here"
        )
    for name, url in (("ISSUER", settings.oidc_issuer), ("JWKS_URL", settings.oidc_jwks_url)):
        if url and not is_safe(url):
            raise ConfigurationError(f"TALLYSTICK_OIDC_{name}: '{url}' is not https")
    algorithms = {part.strip() for part in settings.oidc_algorithms.split(",") if part.strip()}
    if not algorithms or (unfit := sorted(algorithms - ASYMMETRIC)):
        raise ConfigurationError(
            f"TALLYSTICK_OIDC_ALGORITHMS: '{', '.join(unfit) if algorithms else ''}' is not among {', '.join(sorted(ASYMMETRIC))}"
        )
    keys = Keys(
        settings.oidc_issuer,
        settings.oidc_jwks_url,
        clock,
        timedelta(seconds=settings.oidc_keys_seconds),
        tls_context(settings.oidc_ca_file),
    )
    return OidcTokens(
        pool,
        clock,
        keys,
        settings.oidc_issuer,
        settings.oidc_audience,
        algorithms,
        timedelta(seconds=settings.oidc_leeway_seconds),
        RoleNames.parse(settings.oidc_role_claims, settings.oidc_roles),
        settings.oidc_provider,
        settings.oidc_create_users,
    )
