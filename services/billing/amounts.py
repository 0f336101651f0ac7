"""How amounts are spelled to people and in messages (pure)."""

from __future__ import annotations

from decimal import Decimal

from shared.money import EXACT


def amount_text(amount: Decimal) -> str:
    """Spell an amount exactly: all its digits, no exponent, no zeros at its end."""
    return f"{amount.normalize(EXACT):f}"
