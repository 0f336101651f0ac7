"""Entitlements: may this request go? From Postgres as it was a moment ago, or, while that is away, from what the aggregator published."""

from services.api.entitlements.decision import Held, Key, Left, Standing, Verdict
from services.api.entitlements.entitling import Entitlements

__all__ = ["Entitlements", "Held", "Key", "Left", "Standing", "Verdict"]
