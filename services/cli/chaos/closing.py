"""`python -m services.cli.chaos.closing START END`: closes a period as billing's job does, in a process that may be killed in the middle."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime, timedelta

from services.billing.invoices.closing import close_period
from shared.clock import FixedClock
from shared.period import Period
from shared.postgres import create_pool


async def close(database_url: str, period: Period) -> int:
    """Close a period; return how many customers have no invoice for want of luck."""
    pool = await create_pool(database_url, max_size=3, application_name="tallystick-billing", role="tallystick_billing")
    try:
        closing = await close_period(pool, period, clock=FixedClock(period.end), grace=timedelta(0))
    finally:
        pool.terminate()
    print(f"{period}: {len(closing.invoices)} invoices, {len(closing.failures)} failures", flush=True)
    return len(closing.failures)


def main() -> None:
    """Exit code 0 when every customer of the period has an invoice."""
    period = Period(*map(datetime.fromisoformat, sys.argv[1:3]))
    failures = asyncio.run(close(os.environ["DATABASE_URL"], period))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
