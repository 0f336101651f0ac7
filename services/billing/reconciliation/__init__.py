"""Reconciliation: the proof that every event was counted exactly once, from broker offset to invoice."""

from services.billing.reconciliation.reconcile import Check, reconcile

__all__ = ["Check", "reconcile"]
