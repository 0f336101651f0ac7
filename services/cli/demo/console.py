"""What the demo says at its end: links that sign in to its console, for somebody who uses and for somebody who operates."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from services.accounts.sessions.desk import Sessions
from services.accounts.users.desk import Wish, add_user, list_users
from services.cli.demo.world import QUERIES
from shared.clock import SystemClock
from shared.postgres import Pool, transaction

LINKS_VALID: Final = timedelta(minutes=15)
OPERATOR: Final = "operator@demo.example"


async def console_links(pool: Pool, address: str) -> list[tuple[str, str]]:
    """Make a link for the customer with most usage and one for an operator: each is good once, for 15 minutes, on this machine."""
    sessions = Sessions(pool, SystemClock(), timedelta(minutes=1), LINKS_VALID)
    async with transaction(pool) as connection:
        customer = await connection.fetchrow(QUERIES["most_active_customer"])
        known = next((user.id for user in await list_users(connection, role="admin") if user.email == OPERATOR), None)
        operator = known or await add_user(connection, Wish(OPERATOR, "Demo operator", ("admin", "finance")))
    people = [(f"customer {customer['name']}", customer["id"])] if customer else []
    people.append((f"operator {OPERATOR}", operator))
    return [
        (who, f"{address}/console/enter?token={(await sessions.vouch_for(id_)).refresh_token}") for who, id_ in people
    ]
