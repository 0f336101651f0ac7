"""Billing's settings. Each is an environment variable `TALLYSTICK_…`; docs/reference/settings.md lists them."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from services.billing.notices.settings import NoticeSettings
from services.billing.payments.settings import PaymentSettings
from shared.worker import PipelineSettings


class Settings(NoticeSettings, PaymentSettings, PipelineSettings):
    """What a billing worker can be told."""

    billing_batch_messages: int = Field(
        1_000, ge=1, le=10_000, description="Most usage.recorded messages that one fetch hands to the worker."
    )
    billing_gather_seconds: float = Field(
        1.5,
        ge=0,
        le=10,
        description="Least seconds between transactions of one partition: messages that come meanwhile are applied together. "
        "Up to four times as many while usage is late before it comes.",
    )
    billing_lanes: int = Field(
        2, ge=1, le=16, description="Partitions that are rated and stored at once, each on a connection of its own."
    )
    billing_byok_factor: Decimal = Field(
        Decimal(0),
        ge=0,
        description="Factor on the price of usage on the tenant's own provider key; 0: the tenant pays its provider only.",
    )
    billing_held_seconds: float = Field(
        10.0, gt=0, description="How often to rate usage that waited for a price and has one by now."
    )
    billing_settlement_seconds: float = Field(
        5.0, gt=0, description="The settlement window: prepaid usage of a user is debited once in so many seconds."
    )
    billing_urgent_share: Decimal = Field(
        Decimal("0.8"),
        gt=0,
        le=1,
        description="Settle at once when unsettled usage reaches this share of what is left of the credits.",
    )
    billing_outbox_seconds: float = Field(1.0, gt=0, description="How often to publish the billing.events that wait.")
    billing_close_periods: bool = Field(
        True, description="Whether to close each month by itself once its grace is over."
    )
    billing_grace_hours: float = Field(
        24.0, ge=0, description="How long after its end a month waits for late events before it is closed, in hours."
    )
    billing_payment_days: int = Field(14, ge=0, description="Days from the issue of an invoice until it is due.")
    billing_entity: str = Field("default", min_length=1, description="The legal entity that issues invoices.")
    billing_reconcile_minutes: float = Field(
        60.0, ge=0, description="How often to prove that nothing was lost or counted twice, in minutes; 0: never."
    )
