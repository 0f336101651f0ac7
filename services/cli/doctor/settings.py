"""Which settings of Postgres are judged, and by which values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from services.cli.doctor.finding import Severity


class Rule(NamedTuple):
    """A value that a setting must not have: how bad it is, why, and what to do."""

    wrong: str
    severity: Severity
    why: str
    do: str


RULES: Final[Mapping[str, Rule]] = {
    "fsync": Rule(
        "off",
        "error",
        "a crash of the machine destroys the database",
        "set fsync = on, and restore if it crashed since",
    ),
    "full_page_writes": Rule(
        "off", "error", "a crash in the middle of a write leaves torn pages", "set full_page_writes = on"
    ),
    "synchronous_commit": Rule(
        "off",
        "error",
        "a crash loses transactions that were confirmed: positions and effects go together and heal from Kafka, issued invoices and payments do not",
        "set synchronous_commit = on",
    ),
    "autovacuum": Rule("off", "error", "tables grow without bound, until transactions stop", "set autovacuum = on"),
    "track_counts": Rule("off", "error", "autovacuum does not know what to clean", "set track_counts = on"),
    "zero_damaged_pages": Rule("on", "error", "damaged pages are silently emptied", "set zero_damaged_pages = off"),
    "data_checksums": Rule(
        "off", "note", "a disk that changes data is not noticed", "pg_checksums --enable, while the server is stopped"
    ),
}
NUMBERS: Final = (
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
    "autovacuum_freeze_max_age",
)
READ: Final = (*RULES, *NUMBERS)
