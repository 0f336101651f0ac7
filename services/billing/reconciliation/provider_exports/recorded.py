"""What we recorded of providers, to be compared with what they say."""

from __future__ import annotations

from datetime import date
from typing import Final

from services.billing.reconciliation.provider_exports.export import Days, Usage
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.reconciliation.provider_exports")


async def recorded_days(connection: Connection, first: date, last: date, models: list[str], provider: str) -> Days:
    """Return what went to a provider on our own keys from `first` to `last`, by UTC day and model: of `models`, and of all whose provider
    it is. What failed is left out of requests, as providers do not bill it."""
    rows = await connection.fetch(SQL["recorded_days"], first, last, models, provider, timeout=600)
    return {
        (row["day"], row["model_id"]): Usage(
            row["requests"], row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["cost"]
        )
        for row in rows
    }


async def known_models(connection: Connection) -> list[str]:
    """Return our names of models."""
    return [row["id"] for row in await connection.fetch(SQL["models"])]
