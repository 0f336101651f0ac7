"""A transactional store in memory that answers the very SQL of ingest: row locks, a primary key, savepoints, lost sessions.

Statements are recognised by their text in queries.sql, so that everything above them is the code that runs in production.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.ingest.rows import COLUMNS, UsageRow
from shared.sql import Queries
from tests.simulation.loop import Gates
from tests.unit.ingest.unpacking import unpack

_INGEST = Queries.load("services.ingest")
_POSITIONS = Queries.load("shared", "positions.sql", table="ingest_positions")
Key = tuple[datetime, UUID]


class Lost(asyncpg.InterfaceError, Exception):  # type: ignore[misc]  # asyncpg is not typed
    """What a call on a session that is gone says."""


@dataclass(slots=True)
class Account:
    """A row of `ingest_positions`."""

    start: int
    next: int
    inserted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    gaps: int = 0


@dataclass(slots=True)
class Content:
    """What is stored."""

    accounts: dict[int, Account] = field(default_factory=dict)
    rows: dict[Key, UsageRow] = field(default_factory=dict)
    ids: dict[UUID, datetime] = field(default_factory=dict)
    quarantined: set[tuple[int, int]] = field(default_factory=set)


class Database:
    """The server. `changed` collects the partitions of which something was committed since somebody looked."""

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.content = Content()
        self.locks: dict[int, Session] = {}
        self.sessions: set[Session] = set()
        self.changed: set[int] = set()
        self.commits = 0
        self._earlier: list[Content] = []

    def remember(self) -> None:
        """Take the state that a replica has now."""
        now = self.content
        accounts = {partition: copy.copy(account) for partition, account in now.accounts.items()}
        self._earlier = [*self._earlier[-2:], Content(accounts, dict(now.rows), dict(now.ids), set(now.quarantined))]

    def fail_over(self) -> None:
        """Lose what the replica had not received: data and positions go back together, and every session with them."""
        for session in list(self.sessions):
            session.lose()
        if self._earlier:
            self.changed.update(self.content.accounts)
            self.content = self._earlier.pop()


class Transaction:
    """A transaction, or a savepoint inside one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: tuple[dict[Key, UsageRow], dict[UUID, datetime]] | None = None

    async def start(self) -> None:
        self._outer = self._session.work is None
        if self._outer:
            self._session.begin()
        else:
            self._before = copy.copy(self._session.new), copy.copy(self._session.new_ids)

    async def commit(self) -> None:
        if self._outer:
            await self._session.commit()

    async def rollback(self) -> None:
        if self._outer:
            self._session.end()
        elif self._before is not None:
            self._session.new, self._session.new_ids = self._before

    async def __aenter__(self) -> None:
        await self.start()

    async def __aexit__(self, error: object, *_: object) -> None:
        await (self.rollback() if error else self.commit())


class Session:
    """A connection of one worker."""

    def __init__(self, database: Database, owner: Any) -> None:
        self._database, self._owner, self._lost = database, owner, False
        self.work: list[Any] | None = None
        self.new: dict[Key, UsageRow] = {}
        self.new_ids: dict[UUID, datetime] = {}
        database.sessions.add(self)

    def is_closed(self) -> bool:
        return self._lost

    def terminate(self) -> None:
        self.lose()

    def lose(self) -> None:
        """The server or the network is gone: the transaction never was."""
        self._lost = True
        self.end()
        self._database.sessions.discard(self)

    def transaction(self, **_: Any) -> Transaction:
        return Transaction(self)

    def begin(self) -> None:
        self.work, self.new, self.new_ids = [], {}, {}

    def end(self) -> None:
        """Undo what is open, and let its locks go."""
        self.work, self.new, self.new_ids = None, {}, {}
        locks = self._database.locks
        for partition in [partition for partition, holder in locks.items() if holder is self]:
            del locks[partition]

    async def commit(self) -> None:
        """Commit. When the call fails, it may have happened or not: nobody can tell."""
        try:
            await self._call("commit")
        except asyncpg.ConnectionDoesNotExistError:  # the answer got lost
            self._apply()
            raise
        self._apply()

    def _apply(self) -> None:
        if self.work is not None:
            for change in self.work:
                change()
            self._database.content.rows.update(self.new)
            self._database.content.ids.update(self.new_ids)
            self._database.changed.update(self._database.content.accounts)
            self._database.commits += 1
        self.end()

    async def _call(self, what: str, **how: Any) -> None:
        if self._lost:
            raise Lost("connection is closed")
        await self._database.gates.wait(self._owner, what, **how)
        if self._lost:
            raise Lost("connection was closed in the middle of operation")

    async def fetchrow(self, sql: str, *given: Any) -> dict[str, Any] | None:
        if sql == _INGEST["write_usage_ids"]:
            await self._call("generation")
            return {"generation": 1, "earlier": False}
        locks, partition = self._database.locks, given[2]
        if sql == _POSITIONS["lock"]:
            await self._call("lock", may_open=lambda: self._lost or locks.get(partition, self) is self)
            locks[partition] = self
        else:
            await self._call("read")
        account = self._database.content.accounts.get(partition)
        return None if account is None else {"epoch": 0, "start_offset": account.start, "next_offset": account.next}

    async def execute(self, sql: str, *given: Any) -> str:
        content = self._database.content
        if sql == _POSITIONS["create"]:
            await self._call("create")
            content.accounts.setdefault(given[2], Account(given[3], given[3]))
        elif sql == _INGEST["advance_position"]:
            return await self._advance(*given)
        elif sql == _INGEST["quarantine"]:
            self._queue(lambda: content.quarantined.update((given[2], offset) for offset in given[8]))
        return "INSERT"

    def _queue(self, change: Any) -> None:
        assert self.work is not None, "written inside a transaction"
        self.work.append(change)

    async def _advance(self, *given: Any) -> str:
        partition, first, after, inserted, duplicates, quarantined, _held, gaps = given[2], *given[4:]
        await self._call("advance")
        account = self._database.content.accounts[partition]
        if account.next != first:
            return "UPDATE 0"

        def change() -> None:
            account.next = after
            account.inserted += inserted
            account.duplicates += duplicates
            account.quarantined += quarantined
            account.gaps += gaps

        self._queue(change)
        return "UPDATE 1"

    async def copy_to_table(self, table: str, *, source: memoryview, columns: Sequence[str], **_: Any) -> None:
        await self._call("copy")
        for row in unpack(source.tobytes(), columns):
            if table == "usage_ids":
                self.guard(row["id"], row["created_at"])
            else:
                self._store(UsageRow(**row))

    def guard(self, id_: UUID, created_at: datetime) -> None:
        """What the unique key of identities does."""
        if id_ in self._database.content.ids or id_ in self.new_ids:
            raise asyncpg.UniqueViolationError("usage_ids_1_key")
        self.new_ids[id_] = created_at

    def _store(self, row: UsageRow) -> None:
        key = row.created_at, row.id
        if key in self._database.content.rows or key in self.new:
            raise asyncpg.UniqueViolationError("usage_logs_pkey")
        self.new[key] = row

    async def fetch(self, sql: str, ids: Sequence[UUID], times: Sequence[datetime]) -> list[dict[str, Any]]:
        assert sql == _INGEST["stored_versions"]
        await self._call("stored")
        content, found = self._database.content, []
        for id_, came_at in zip(ids, times, strict=True):
            guarded_at = self.new_ids.get(id_) or content.ids.get(id_)
            key = guarded_at or came_at, id_
            if row := self.new.get(key) or content.rows.get(key):
                stored = dict(zip(COLUMNS, row, strict=True))
                found.append({"wanted": id_, "guarded_at": guarded_at, **stored})
        return found


class FakePool:
    """The pool of one worker."""

    def __init__(self, database: Database, owner: Any) -> None:
        self._database, self._owner = database, owner

    def acquire(self) -> Any:
        return _Acquiring(Session(self._database, self._owner))

    async def release(self, session: Session) -> None:
        session.end()
        self._database.sessions.discard(session)

    async def execute(self, *_: Any) -> None:
        """Forgetting what was published: nothing of interest here."""

    async def fetchval(self, *_: Any) -> str:
        """Making a month's partition, which says its name: nothing of interest here."""
        return "usage_logs_2026_11"

    async def expire_connections(self) -> None:
        """All sessions are new ones anyway."""


class _Acquiring:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __await__(self) -> Any:
        return self._get().__await__()

    async def _get(self) -> Session:
        return self._session

    async def __aenter__(self) -> Session:
        return self._session

    async def __aexit__(self, *_: object) -> None:
        self._session.end()
        self._session._database.sessions.discard(self._session)
