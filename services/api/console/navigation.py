"""What there is in the console, and who sees it (pure). What somebody may do is decided where it is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from services.api.auth.principal import Principal

Part = Literal["tenant", "finance", "operator"]


@dataclass(frozen=True, slots=True)
class NavItem:
    """A page that the navigation leads to. `label` is translated where it is shown; items of a part stand in their `order`."""

    path: str
    label: str
    role: Part
    order: int = 50


def sees(principal: Principal, part: Part) -> bool:
    """Tell whether a part of the console is for somebody."""
    return part == "tenant" or (principal.may("finance") if part == "finance" else principal.may("admin"))


def shown_to(principal: Principal, items: Iterable[NavItem]) -> dict[Part, list[NavItem]]:
    """Return what somebody sees, by part; a part of which they see nothing is left out."""
    found: dict[Part, list[NavItem]] = {}
    for part in ("tenant", "finance", "operator"):
        mine = sorted((item for item in items if item.role == part), key=lambda item: item.order)
        if mine and sees(principal, part):
            found[part] = mine
    return found
