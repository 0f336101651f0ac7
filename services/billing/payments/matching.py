"""Which invoices a bank transfer pays (pure): found by the numbers of invoices in what the payer wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

_WORD: Final = re.compile(r"[^\W_]+")
MOST_WORDS: Final = 8
"""Words that one number may be broken into by a bank's lines, punctuation and spaces: `INV 2026 0000 01`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An issued invoice whose number a transfer names."""

    invoice_id: UUID
    user_id: UUID
    number: str
    currency: str
    outstanding: Decimal
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A transfer belongs to a customer and pays these invoices, in this order; what is left over stays with the customer."""

    user_id: UUID
    invoices: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """Nobody can tell by the text; `reason` is for the person who looks at it."""

    reason: str


def normalised(number: str) -> str:
    """Return the number of an invoice without what people and banks leave out or add."""
    return "".join(_WORD.findall(number)).upper()


def possible_numbers(reference: str) -> set[str]:
    """Return every run of whole words of a text that might be an invoice's number, normalised.

    Whole words only, so that INV-2026-000001 is not found within INV-2026-0000012.
    """
    words = [word.upper() for word in _WORD.findall(reference)]
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + MOST_WORDS, len(words)) + 1))
    return {run for run in runs if any(c.isdigit() for c in run)}


def match(currency: str, named: Sequence[Candidate]) -> Match | NoMatch:
    """Decide whom a transfer in `currency` belongs to, given the invoices that it names, oldest first."""
    if not named:
        return NoMatch("it names no invoice")
    if len({candidate.user_id for candidate in named}) > 1:
        return NoMatch(f"it names invoices of several customers: {_numbers(named)}")
    if others := [candidate for candidate in named if candidate.currency != currency]:
        return NoMatch(f"it is in {currency}, but invoice {others[0].number} is in {others[0].currency}")
    alive = [candidate for candidate in named if not candidate.cancelled]
    if not alive:
        return NoMatch(f"the invoice it names is cancelled: {_numbers(named)}")
    return Match(alive[0].user_id, [candidate.invoice_id for candidate in alive])


def _numbers(candidates: Sequence[Candidate]) -> str:
    return ", ".join(candidate.number for candidate in candidates)
