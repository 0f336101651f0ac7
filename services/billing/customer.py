"""Who is invoiced (pure)."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID


class Customer(NamedTuple):
    """Who gets an invoice, in which currency: several currencies never mix in one."""

    user_id: UUID
    currency: str
