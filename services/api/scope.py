"""Whose things a request is about: a tenant's own, or, for who reads all, somebody's whom it names."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query

from services.api.auth.asking import Asking
from services.api.problems import NOT_FOUND, Problem

UserId = Annotated[
    UUID | None, Query(description="Whose; administrators and finance may name anybody, others only themselves.")
]


def whose(principal: Asking, user_id: UserId = None) -> UUID | None:
    """Return whose things are asked for; None: everybody's. Raises `Problem` (404) for somebody else whom a tenant names."""
    if principal.reads_all:
        return user_id
    if user_id not in (None, principal.user_id):
        raise Problem(NOT_FOUND, f"there is no user {user_id}")
    return principal.user_id


def owner(principal: Asking, user_id: UserId = None) -> UUID:
    """Return the one whose things are asked for: who asks, unless somebody else is named. Raises `Problem` (404)."""
    return whose(principal, user_id) or principal.user_id


Whose = Annotated[UUID | None, Depends(whose)]
Owner = Annotated[UUID, Depends(owner)]
