"""The API's settings. Each is an environment variable `TALLYSTICK_…`; docs/reference/settings.md lists them."""

from __future__ import annotations

from pydantic import Field

from services.accounts.settings import AccountSettings
from shared.worker import PipelineSettings


class Settings(AccountSettings, PipelineSettings):
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
