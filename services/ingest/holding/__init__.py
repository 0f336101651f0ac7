"""Held events, the operator's side: who is waited for and since when, and giving up on them by a person's word.

Attribution itself is the worker's (services/ingest/held.py). What is done here needs the rights of an operator's login.
"""

from services.ingest.holding.store import Held, WaitingFor, count_waiting, expire, find, list_waiting, owner_exists

__all__ = ["Held", "WaitingFor", "count_waiting", "expire", "find", "list_waiting", "owner_exists"]
