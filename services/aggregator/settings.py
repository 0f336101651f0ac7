"""The aggregator's settings. Each is an environment variable `TALLYSTICK_…`; docs/reference/settings.md lists them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.aggregator.quota import Interval, QuotaPolicy
from shared.worker import PipelineSettings


class Settings(PipelineSettings):
    """What an aggregator worker can be told."""

    aggregator_batch_messages: int = Field(
        1_000, ge=1, le=10_000, description="Most usage.recorded messages that one fetch hands to the worker."
    )
    aggregator_gather_seconds: float = Field(
        1.0,
        ge=0,
        le=10,
        description="Least seconds between transactions of one partition: messages that come meanwhile are applied together. "
        "Up to four times as many while usage is late before it comes.",
    )
    aggregator_lanes: int = Field(
        2, ge=1, le=16, description="Partitions that are folded and stored at once, each on a connection of its own."
    )
    aggregator_quota_interval: Interval = Field(
        "month", description="Length of the quota period that follows a reset: day, week or month."
    )
    aggregator_quota_thresholds: Annotated[tuple[int, ...], NoDecode] = Field(
        (50, 80, 100), description="Percentages of a quota that raise an alert, once each per period; comma-separated."
    )
    aggregator_status_seconds: float = Field(
        0.1,
        gt=0,
        le=10,
        description="How often to look for status changes made by others. Own ones are published at once.",
    )
    aggregator_reset_seconds: float = Field(1.0, gt=0, description="How often to look for quota periods that are over.")
    aggregator_outbox_seconds: float = Field(1.0, gt=0, description="How often to publish the alerts that wait.")
    aggregator_provider_health_seconds: float = Field(10.0, gt=0, description="How often to judge the providers.")
    aggregator_provider_window_minutes: int = Field(
        5, ge=1, le=1440, description="Minutes of a provider's traffic, up to its last, that it is judged by."
    )
    aggregator_provider_keep_days: int = Field(7, ge=1, description="Days that provider observations are kept.")
    aggregator_key_keep_days: int = Field(
        90, ge=2, description="Days that the usage of API keys by day is kept: longer than late events are accepted."
    )
    aggregator_reservation_seconds: float = Field(
        1.0, gt=0, description="How often to look for reservations whose time is over."
    )
    aggregator_reservation_keep_hours: int = Field(
        48, ge=24, description="Hours that finished reservations, and with them their idempotency keys, are kept."
    )
    aggregator_inbox_keep_days: int = Field(
        14,
        ge=1,
        description="Days that the inbox keeps messages; older batches that were applied are known by their time.",
    )
    aggregator_usage_summary_seconds: float = Field(
        600.0,
        gt=0,
        description="How often to refresh the materialized view llm_usage_summary. A refresh reads what was used of each day that changed.",
    )

    @field_validator("aggregator_quota_thresholds", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("aggregator_quota_thresholds")
    @classmethod
    def _percentages(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not all(1 <= percent <= 100 for percent in value):
            raise ValueError("each threshold is a percentage between 1 and 100")
        return tuple(sorted(set(value)))

    def quota_policy(self) -> QuotaPolicy:
        """Return what is up to the operator about quotas."""
        return QuotaPolicy(self.aggregator_quota_interval, self.aggregator_quota_thresholds)
