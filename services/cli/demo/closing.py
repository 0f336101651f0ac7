"""The end of last month's billing period: closed into invoices, as the scheduled job does it a few days later."""

from __future__ import annotations

from datetime import datetime

from services.cli.demo.display import Display
from shared.postgres import Connection


async def close_last_month(connection: Connection, now: datetime, display: Display) -> None:
    """Issue last month's invoices."""
