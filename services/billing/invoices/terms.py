"""On what terms a customer is invoiced (pure): by whom, how it is taxed, how long it has to pay, and what is done about odd amounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Literal
from uuid import UUID

from services.billing.invoices.document import Language
from services.billing.invoices.taxes import Tax, Treatment, tax_of

LateUsage = Literal["adjustment", "credit_note"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds where neither a customer's profile nor its legal entity say otherwise."""

    entity: str = "default"
    payment: timedelta = timedelta(days=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerTerms:
    """The terms of one customer. `seller` and `buyer` are the parties as JSON, to be kept with the invoice.

    `late_usage`: how usage that was taken back after its invoice is given back. `issue_zero_invoices`: whether an invoice over nothing
    is issued; if not, what is on it waits for one that has an amount.
    """

    user_id: UUID
    entity: str
    payment_days: int
    tax_treatment: Treatment
    tax_rate: Decimal
    exemption_reason: str | None
    registered: bool
    language: Language
    late_usage: LateUsage
    issue_zero_invoices: bool
    seller: str
    buyer: str

    @property
    def tax(self) -> Tax:
        """How its invoices are taxed."""
        return tax_of(self.tax_treatment, self.tax_rate, self.exemption_reason, registered=self.registered)
