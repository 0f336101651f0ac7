"""Who asks, and what that allows (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

Right = Literal["admin", "finance", "service"]

ROLES: Final = ("user", "admin", "finance", "service")


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a credential stands for. API keys belong to one subscription of their user; other credentials to the user alone."""

    user_id: UUID
    name: str
    roles: frozenset[str]
    subscription_id: UUID | None = None
    key_id: UUID | None = None
    session_id: UUID | None = None

    @property
    def reads_all(self) -> bool:
        """Whether it may see what is others': administrators and finance do."""
        return bool(self.roles & {"admin", "finance"})

    @property
    def reports_for_all(self) -> bool:
        """Whether it is a gateway: it reports usage, asks and reserves for any subscription."""
        return bool(self.roles & {"service", "admin"})

    def may(self, *rights: Right) -> bool:
        """Whether it has one of these roles. An administrator may do what finance and gateways may."""
        return "admin" in self.roles or bool(self.roles.intersection(rights))
