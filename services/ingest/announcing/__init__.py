"""Announcing again, the operator's side: batches that a reader of usage.recorded has not heard of, though it should have."""

from services.ingest.announcing.again import Announced, Unheard, announce_again, find_unheard

__all__ = ["Announced", "Unheard", "announce_again", "find_unheard"]
