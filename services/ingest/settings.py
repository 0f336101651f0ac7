"""Ingest's settings. Each is an environment variable `TALLYSTICK_…`; docs/reference/settings.md lists them."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.ingest.acceptance import Limits
from services.ingest.compiled import Compiled
from services.ingest.refusals import RefusalLimits
from shared.settings import PREFIX
from shared.worker import PipelineSettings


class AcceptanceSettings(BaseSettings):
    """What a usage event may be: the same for the workers and for the API, which refuses at once what they would quarantine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    ingest_record_bytes: int = Field(256 * 1024, ge=1024, description="Largest record that is accepted, in bytes.")
    ingest_metadata_bytes: int = Field(4 * 1024, ge=0, description="Largest metadata of one event, in bytes of JSON.")
    ingest_metadata_keys: int = Field(32, ge=0, description="Most keys in the metadata of one event.")
    ingest_metadata_depth: int = Field(
        16, ge=1, le=100, description="Most levels of objects and arrays in the metadata of one event."
    )
    ingest_ahead_seconds: int = Field(
        300, ge=0, le=366 * 86_400, description="How far an event time may lie ahead of now: gateway clocks drift."
    )
    ingest_late_days: int = Field(
        35, ge=1, le=36_500, description="How old an event may be when it arrives; older ones are quarantined."
    )

    def limits(self) -> Limits:
        """Return the limits for acceptance."""
        return Limits(
            record_bytes=self.ingest_record_bytes,
            metadata_bytes=self.ingest_metadata_bytes,
            metadata_keys=self.ingest_metadata_keys,
            metadata_depth=self.ingest_metadata_depth,
            ahead=timedelta(seconds=self.ingest_ahead_seconds),
            late=timedelta(days=self.ingest_late_days),
        )


class Settings(AcceptanceSettings, PipelineSettings):
    """What an ingest worker can be told."""

    ingest_batch_records: int = Field(
        20_000,
        ge=1,
        le=100_000,
        description="Most records that one fetch hands to the worker. What it leaves behind delays the next fetch.",
    )
    ingest_lanes: int = Field(
        3, ge=1, le=16, description="Partitions that are stored at once, each on a connection of its own."
    )
    ingest_partitions_ahead: int = Field(
        3, ge=0, le=120, description="How many months after the current one have their partition of usage_logs ready."
    )
    ingest_recent_events: int = Field(
        50_000, ge=1_000, description="Events in one generation of the duplicate window (two are kept)."
    )
    ingest_compiled: Compiled = Field(
        Compiled.AUTO,
        description="Whether to use the compiled sweep, which changes nothing but speed: `auto` where it is installed, `required`, or `off`.",
    )
    ingest_identity_days: int = Field(
        400,
        ge=400,
        le=36_500,
        description="How long an event's identity is guarded at least, after its row was stored; never shorter than the row is in the database.",
    )
    ingest_identity_generation_days: int = Field(
        183,
        ge=1,
        le=3_660,
        description="After how long a new generation of identities begins; earlier ones are only read.",
    )

    ingest_quarantine_percent: int = Field(
        50,
        ge=0,
        le=100,
        description="A partition halts when more than this share of its last records was refused; 0: never. Conflicts do not count.",
    )
    ingest_quarantine_window: int = Field(
        1_000, ge=10, le=100_000, description="How many last records of a partition that share is of."
    )
    ingest_quarantine_in_a_row: int = Field(
        5_000, ge=0, description="A partition halts when this many records in a row were refused; 0: never."
    )

    @model_validator(mode="after")
    def _enough_connections(self) -> Self:
        """A lane that holds a connection asks for a second one to make a month's partition; so does attributing held events."""
        if self.database_pool_max < self.ingest_lanes + 2:
            raise ValueError(
                f"TALLYSTICK_DATABASE_POOL_MAX: {self.ingest_lanes} lanes need at least {self.ingest_lanes + 2} connections"
            )
        return self

    def refusal_limits(self) -> RefusalLimits:
        """Return the limits beyond which a partition halts."""
        return RefusalLimits(
            percent=self.ingest_quarantine_percent,
            window=self.ingest_quarantine_window,
            in_a_row=self.ingest_quarantine_in_a_row,
        )
