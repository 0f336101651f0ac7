"""Recognises access tokens of sessions."""

from __future__ import annotations

from dataclasses import dataclass

from services.accounts.sessions.desk import Sessions
from services.api.auth.principal import Principal


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Who has logged in with a password. `desk` begins and ends sessions."""

    desk: Sessions

    async def recognise(self, token: str) -> Principal | None:
        """Return whom an access token stands for, None if it is not valid (any more)."""
        found = await self.desk.recognise(token)
        if found is None:
            return None
        return Principal(found.user_id, found.username, found.roles, session_id=found.family)
