"""What a correct pipeline must have stored (independent of its code): read off the log below the position, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.simulation.broker import Log
from tests.simulation.database import Account, Database


@dataclass(frozen=True, slots=True)
class Fact:
    """What the producer knows of a record that it sent: None for no event, else its id, what it counted, and at which second."""

    event: str | None
    tokens: int = 0
    second: int = 30


class Violation(AssertionError):
    """What must hold does not. `check` names it: account, rows, rest (all comes through in the end), callback."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check


@dataclass(slots=True)
class _Partition:
    """The books of one partition up to `next`."""

    start: int = 0
    next: int = 0
    inserted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    events: dict[str, tuple[int, int]] = field(default_factory=dict)


class Model:
    """Compares the database with the log whenever something was committed. `facts` grows with what is produced."""

    def __init__(self, logs: Mapping[int, Log]) -> None:
        self._logs = logs
        self.facts: dict[tuple[int, int], Fact] = {}
        self._books = {partition: _Partition() for partition in logs}
        self._stored: dict[int, set[str]] = {}

    def check(self, database: Database) -> None:
        """Raise `Violation` unless the effects of each changed partition are exactly what its log holds below its position."""
        for partition in sorted(database.changed):
            account = database.content.accounts.get(partition)
            self._check(partition, account or Account(0, 0))
        if database.changed:
            self._check_rows(database)
        database.changed.clear()

    def _check(self, partition: int, account: Account) -> None:
        books = self._books[partition]
        if account.next < books.next or account.start != books.start:  # a failover, or never read: from the start
            books = self._books[partition] = _Partition(account.start, account.start)
        for record in self._logs[partition].since(books.next, 1 << 30):
            if record.offset >= account.next:
                break
            self._enter(books, self.facts[partition, record.offset])
        books.next = account.next
        gaps = account.next - account.start - books.inserted - books.duplicates - books.quarantined
        for what, expected, counted in (
            ("inserted", books.inserted, account.inserted),
            ("duplicates", books.duplicates, account.duplicates),
            ("quarantined", books.quarantined, account.quarantined),
            ("gaps", gaps, account.gaps),
        ):
            if expected != counted:
                raise Violation(
                    "account",
                    f"partition {partition} below {account.next}: {what} {counted}, but the log holds {expected}",
                )

    @staticmethod
    def _enter(books: _Partition, fact: Fact) -> None:
        if fact.event is None:
            books.quarantined += 1
        elif fact.event not in books.events:
            books.events[fact.event] = fact.tokens, fact.second
            books.inserted += 1
        elif books.events[fact.event] == (fact.tokens, fact.second):
            books.duplicates += 1
        else:
            books.quarantined += 1

    def _check_rows(self, database: Database) -> None:
        rows, expected = database.content.rows, sum(books.inserted for books in self._books.values())
        if len(rows) != expected:
            raise Violation("rows", f"{len(rows)} rows are stored, {expected} events lie below the positions")
        events = {event: fact for books in self._books.values() for event, fact in books.events.items()}
        if {row.request_id: (row.request_tokens, row.created_at.second) for row in rows.values()} != events:
            raise Violation("rows", "the rows are not the events below the positions")
