"""Settings of notices, composed into billing's."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import PREFIX


class NoticeSettings(BaseSettings):
    """Alerts and webhooks."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    billing_webhook_keys: SecretStr | None = Field(
        None,
        description="Fernet keys that webhook secrets are encrypted with, comma-separated: the first encrypts, all decrypt. "
        "Without one no endpoint can be added and nothing is delivered.",
    )
    billing_webhook_seconds: float = Field(1.0, gt=0, description="How often to look for deliveries that are due.")
    billing_webhook_concurrency: int = Field(
        16, ge=1, le=500, description="Most deliveries that one worker has on their way."
    )
    billing_webhook_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=120,
        description="Longest time that one delivery may take, from the name's resolution to the answer.",
    )
    billing_webhook_attempts: int = Field(
        12, ge=1, le=100, description="Failed attempts after which a delivery is given up: 12 take two to three days."
    )
    billing_webhook_disable_hours: float = Field(
        24.0,
        ge=0,
        description="How long an endpoint may fail without a success in between before it is disabled, in hours.",
    )
    billing_webhook_allow_http: bool = Field(False, description="Whether endpoints may be http:// as well.")
    billing_webhook_allow_private: bool = Field(
        False,
        description="Whether deliveries may go to private, loopback and link-local addresses: for development and closed networks only.",
    )
    billing_webhook_keep_days: float = Field(
        30.0, gt=0, description="How long the delivery log and what was delivered are kept, in days."
    )
    billing_watch_minutes: float = Field(
        5.0, ge=0, description="How often to look for what users want to be alerted of, in minutes; 0: never."
    )
    billing_quota_watch_seconds: float = Field(
        5.0, gt=0, description="How often to look for percentages of quotas that users have chosen themselves."
    )
    billing_expiring_days: int = Field(
        7,
        ge=1,
        le=365,
        description="Days before its end that a subscription's user is told, unless the user chose others.",
    )
    billing_unrated_minutes: float = Field(
        60.0, ge=0, description="How long usage may wait for a price before it is alerted, in minutes."
    )
