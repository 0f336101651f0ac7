"""Payments' settings: a block of billing's, and all that the commands of `tallystick payments` read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.billing.payments.dunning import parse_days
from shared.settings import PREFIX


class PaymentSettings(BaseSettings):
    """How money comes in."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    payment_provider: Literal["manual", "stripe", "paypal", "wise"] = Field(
        "manual", description="Who takes new payments. manual: bank transfers. paypal and wise have no adapter yet."
    )
    stripe_api_key: SecretStr | None = Field(None, description="Stripe's secret or restricted key.")
    stripe_api_key_file: str = Field("", description="File with that key, in place of the variable.")
    stripe_webhook_secret: SecretStr | None = Field(
        None, description="Secret that Stripe signs webhooks with; several with commas, while it is being changed."
    )
    stripe_webhook_secret_file: str = Field("", description="File with that secret, in place of the variable.")
    stripe_api_base: str = Field(
        "", pattern=r"^(https?://[^\s]+)?$", description="Where Stripe's API is, for tests; Stripe's own without it."
    )
    payment_success_url: str = Field(
        "https://example.com/paid", pattern=r"^https?://[^\s]+$", description="Where a customer goes who has paid."
    )
    payment_cancel_url: str = Field(
        "https://example.com/cancelled",
        pattern=r"^https?://[^\s]+$",
        description="Where a customer goes who has not paid.",
    )
    dunning_days: str = Field(
        "0,3,7,14",
        description="Days after the due date on which an unpaid invoice is charged again, or its customer reminded.",
    )
    dunning_suspends: bool = Field(
        True, description="Whether subscriptions are suspended (payment_overdue) when the last of these was in vain."
    )

    @field_validator("dunning_days")
    @classmethod
    def _schedule(cls, text: str) -> str:
        parse_days(text)
        return text

    @property
    def dunning_schedule(self) -> tuple[int, ...]:
        """The days, as numbers."""
        return parse_days(self.dunning_days)
