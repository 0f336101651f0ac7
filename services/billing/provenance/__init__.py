"""Provenance: from an invoice line or a debit back to the usage events behind it."""

from services.billing.provenance.explain import Explanation, explain_debit, explain_line

__all__ = ["Explanation", "explain_debit", "explain_line"]
