"""Reprice: usage of the past that a wrong price has rated is rated again, as rows that take back and rows that charge anew."""

from services.billing.reprice.reprice import Applied, Preview, apply, preview

__all__ = ["Applied", "Preview", "apply", "preview"]
