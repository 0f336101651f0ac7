"""The API's settings. Each is an environment variable `TALLYSTICK_…`; docs/reference/settings.md lists them."""

from __future__ import annotations

from pydantic import Field, SecretStr

from services.accounts.settings import AccountSettings
from services.api.limits import Rate, RateLimits
from services.ingest.settings import AcceptanceSettings
from shared.worker import PipelineSettings


class Settings(AccountSettings, AcceptanceSettings, PipelineSettings):
    """What a process of the API can be told."""

    api_host: str = Field(
        "127.0.0.1", description="Address that the API listens on. /metrics and the probes have their own."
    )
    api_port: int = Field(8084, ge=1, le=65535, description="Port that the API listens on.")
    api_body_bytes: int = Field(
        4 * 2**20,
        ge=1024,
        le=2**30,
        description="Largest body of a request, in bytes as sent; a larger one is refused unread.",
    )
    api_request_seconds: float = Field(
        30.0, gt=0, description="How long a statement for a request may take before it is given up."
    )
    api_streams: int = Field(200, ge=0, description="Most streams of live counters of one process.")
    api_streams_each: int = Field(5, ge=0, description="Most of one user.")
    api_cors_origins: str = Field(
        "", description="Origins whose pages may call the API from a browser, comma-separated; empty: none."
    )
    api_key_cache_seconds: float = Field(
        2.0,
        ge=0,
        le=60,
        description="How long an API key that was recognised is not looked up again: a revocation takes so long at most.",
    )
    api_key_stale_seconds: float = Field(
        3600.0, ge=0, description="How long a known API key is recognised while Postgres does not answer."
    )
    api_requests_per_second: float = Field(
        100.0, ge=0, description="Requests a second of one credential, on average, of one process; 0: no limit."
    )
    api_requests_burst: int = Field(200, ge=1, description="Requests of one credential at once.")
    api_gateway_requests_per_second: float = Field(
        2_000.0, ge=0, description="The same for credentials with the role service, which speak for many; 0: no limit."
    )
    api_gateway_requests_burst: int = Field(4_000, ge=1, description="Requests of such a credential at once.")
    api_refusals_per_minute: float = Field(
        30.0,
        ge=0,
        description="Credentials a minute that may be refused to one client address, and as many at once, before unknown ones are not even "
        "looked up for it; 0: no limit. Behind a proxy, set FORWARDED_ALLOW_IPS to its address.",
    )

    api_entitlement_seconds: float = Field(
        2.0,
        ge=0,
        le=10,
        description="How old what Postgres said may be when an entitlement is answered; it is loaded ahead at half of that. A change of "
        "status is known at once.",
    )
    api_inflated_bytes: int = Field(
        16 * 2**20,
        ge=1024,
        le=2**30,
        description="Largest body of events or spans after decompression, in bytes; reading ends there.",
    )
    api_events_waiting: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Most usage events that may wait for Kafka at once; beyond it requests are answered 503.",
    )
    api_ack_seconds: float = Field(
        10.0,
        ge=0.1,
        le=300,
        description="How long Kafka may take to acknowledge the events of a request before it is answered 503.",
    )
    api_idempotency_seconds: float = Field(
        3600.0, ge=0, description="How long the answer to events with an Idempotency-Key is kept, in memory."
    )
    api_idempotency_bytes: int = Field(32 * 2**20, ge=0, description="Most bytes of such answers; the oldest go first.")

    api_session_access_seconds: int = Field(
        900,
        ge=30,
        le=86_400,
        description="How long the access token of a session is valid before it has to be refreshed.",
    )
    api_session_days: int = Field(
        30, ge=1, le=365, description="How long a login lasts, however often it is refreshed."
    )

    oidc_issuer: str = Field(
        "", description="Issuer of the tokens that are valid here, as their claim iss names it; empty: none are."
    )
    oidc_audience: str = Field("", description="What the claim aud of a token has to name: this API.")
    oidc_jwks_url: str = Field(
        "", description="Where the issuer publishes its keys; empty: where its discovery document says."
    )
    oidc_algorithms: str = Field(
        "RS256,ES256", description="Algorithms that tokens may be signed with, comma-separated; asymmetric ones only."
    )
    oidc_leeway_seconds: float = Field(30.0, ge=0, le=300, description="How far the issuer's clock may be from ours.")
    oidc_keys_seconds: float = Field(
        3600.0,
        ge=30,
        description="How old the issuer's keys may be before they are fetched again; while that fails, they are kept.",
    )
    oidc_ca_file: str = Field(
        "", description="Certificates (PEM) that the issuer's is checked against; the system's without it."
    )
    oidc_role_claims: str = Field(
        "realm_access/roles,groups",
        description="Where tokens name roles or groups, comma-separated; a / goes one level down. Keycloak: realm_access/roles, "
        "resource_access/CLIENT/roles; OpenShift: groups.",
    )
    oidc_roles: str = Field(
        "",
        description="What these names give here, such as admin=tallystick-admins,finance=billing-team,service=gateways. Roles of the "
        "user's row are added.",
    )
    oidc_create_users: bool = Field(
        False,
        description="Whether somebody with a valid token, and an e-mail address in it, becomes a user at the first login.",
    )

    oidc_client_id: str = Field(
        "", description="What the console is called at the issuer, to sign people in there; empty: passwords alone."
    )
    oidc_client_secret: SecretStr = Field(
        SecretStr(""),
        description="The console's secret at the issuer; empty: it is a public client (PKCE is used anyway).",
    )
    oidc_scopes: str = Field("openid profile email", description="Scopes that the console asks the issuer for.")
    console_url: str = Field(
        "",
        description="Where browsers find this server, such as https://usage.example.com; empty: where they ask. With https, cookies are "
        "Secure.",
    )
    console_links: bool = Field(
        False,
        description="Whether a link may sign in to the console, once and from this machine: the demo sets it.",
    )

    def rate_limits(self) -> RateLimits:
        """Return the limits of this process, with nothing taken yet."""
        return RateLimits(
            Rate(self.api_requests_per_second, self.api_requests_burst),
            Rate(self.api_gateway_requests_per_second, self.api_gateway_requests_burst),
            Rate(self.api_refusals_per_minute / 60, max(1, int(self.api_refusals_per_minute))),
        )
