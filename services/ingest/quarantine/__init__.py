"""Quarantine, the operator's side: refused records are shown, replayed through ingest's own path, or discarded.

The worker only puts records in. What is done here needs the rights of an operator's login, and is written to audit_logs.
"""

from services.ingest.quarantine.comparison import stored_version
from services.ingest.quarantine.decisions import Replayed
from services.ingest.quarantine.replay import Replay, without_consumer
from services.ingest.quarantine.store import (
    Choice,
    ChoiceRefused,
    Quarantined,
    check_choice,
    count_open,
    discard,
    list_open,
    show,
)

__all__ = [
    "Choice",
    "ChoiceRefused",
    "Quarantined",
    "Replay",
    "Replayed",
    "check_choice",
    "count_open",
    "discard",
    "list_open",
    "show",
    "stored_version",
    "without_consumer",
]
