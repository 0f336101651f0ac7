"""Known bugs of event consumers, to be put back one at a time: the simulation must find each, or it proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from aiokafka import TopicPartition

import services.ingest.store
import shared.consumer
from services.ingest.handlers import IngestBatch, Taken
from services.ingest.identities import Guard
from services.ingest.log import UsageLog
from services.ingest.packing import Candidate, pack
from services.ingest.rows import UsageRow
from services.ingest.sweeping import Decoded, Swept
from shared.consumer import ExactlyOnceConsumer
from shared.placement import fresh_records
from shared.positions import Positions
from shared.postgres import transaction
from tests.simulation.broker import FakeConsumer
from tests.simulation.database import Session

Patch = pytest.MonkeyPatch


class _Anywhere:
    """Equal to every offset."""

    def __eq__(self, _other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def records_fetched_before_the_seek_are_accepted(patch: Patch) -> None:
    """As if the partition were not paused at assignment, and whatever comes first had been sought."""
    original = ExactlyOnceConsumer.on_partitions_assigned

    async def assigned(self: ExactlyOnceConsumer, tps: Iterable[TopicPartition]) -> None:
        await original(self, tps)
        for tp in tps:
            state = self._partitions[tp]
            state.synced, state.sought = True, _Anywhere()  # type: ignore[assignment]
            self._consumer.resume(tp)

    patch.setattr(ExactlyOnceConsumer, "on_partitions_assigned", assigned)


def effects_are_committed_without_the_position(patch: Patch) -> None:
    """The position is moved in a transaction of its own, after the one with the effects."""
    advance, begin = services.ingest.store.advance_position, IngestBatch.__call__
    waiting: list[Any] = []

    async def later(*given: Any) -> None:
        waiting.append(given[1:])

    async def batch(self: IngestBatch, connection: Any, records: Any) -> Any:
        after = await begin(self, connection, records)
        moved = waiting.pop()

        async def and_the_position() -> None:
            async with transaction(self.log._pool) as another:
                await advance(another, *moved)
            await after()

        return and_the_position

    patch.setattr(services.ingest.store, "advance_position", later)
    patch.setattr(IngestBatch, "__call__", batch)


def the_window_is_trusted(patch: Patch) -> None:
    """What the window remembers is a duplicate; the database is not asked."""
    judge = UsageLog._judge

    async def trusting(self: UsageLog, into: Any, suspects: list[Candidate]) -> list[Candidate]:
        here = {c.key for c in into.result.stored}
        known = [c for c in suspects if c.key in self._recent and c.key not in here]
        into.result.duplicates += len(known)
        left = [c for c in suspects if c not in known]
        return await judge(self, into, left) if left else []

    patch.setattr(UsageLog, "_judge", trusting)


def the_window_is_updated_before_the_commit(patch: Patch) -> None:
    """What the batch inserts is remembered at once, though the transaction may be rolled back."""
    take_in = IngestBatch.take_in

    async def remembering(self: IngestBatch, *given: Any, **named: Any) -> Taken:
        taken = await take_in(self, *given, **named)
        self.recent.remember(taken.stored)
        return taken

    patch.setattr(IngestBatch, "take_in", remembering)


def the_window_is_trusted_and_updated_before_the_commit(patch: Patch) -> None:
    """Both together: an event that was rolled back looks like a duplicate when it comes again, and is lost."""
    the_window_is_updated_before_the_commit(patch)
    the_window_is_trusted(patch)


def duplicates_are_found_in_memory_only(patch: Patch) -> None:
    """There is no primary key: what the window has forgotten is stored again."""

    def store(self: Session, row: UsageRow) -> None:
        self.new[row.created_at, row.id] = row

    patch.setattr(Session, "_store", store)
    patch.setattr(Session, "guard", lambda *_: None)


def identities_are_known_in_memory_only(patch: Patch) -> None:
    """There is the log's key, but none of identities: what comes again with another time is found while the window remembers it."""
    patch.setattr(Session, "guard", lambda self, id_, created_at: self.new_ids.setdefault(id_, created_at))


def a_seek_is_missed_and_gaps_are_believed(patch: Patch) -> None:
    """The consumer goes on where the group's committed offset is, and nobody compares that with the position."""
    patch.setattr(FakeConsumer, "seek", lambda *_: None)
    patch.setattr(
        shared.consumer, "fresh_records", lambda records, position, _sought: fresh_records(records, position, position)
    )


def a_failed_record_is_skipped(patch: Patch) -> None:
    """An error in storing is logged, and consumption goes on behind it."""
    sweep_in = UsageLog.sweep_in

    async def carelessly(self: UsageLog, *given: Any) -> tuple[Swept | None, Guard]:
        try:
            return await sweep_in(self, *given)
        except asyncpg.PostgresError:
            return Swept(pack((), UUID(int=0), 1), set(), Decoded()), Guard(1, False)

    patch.setattr(UsageLog, "sweep_in", carelessly)


def what_retention_deleted_passes_for_a_gap(patch: Patch) -> None:
    """A gap is believed because we sought to its near side."""

    async def believe(*_: Any) -> None:
        return

    patch.setattr(ExactlyOnceConsumer, "_confirm_gap", believe)


def a_fetch_that_failed_is_not_noticed(patch: Patch) -> None:
    """What it took out of the buffer is not sought again: the records behind it pass for the far side of a gap."""
    patch.setattr(ExactlyOnceConsumer, "_fetch_failed", lambda *_: None)


def a_topic_that_was_recreated_is_read_on(patch: Patch) -> None:
    """Positions are not compared with what the broker holds."""
    patch.setattr(shared.consumer, "check_position", lambda *_: None)


def a_zombie_and_its_successor_are_not_serialised(patch: Patch) -> None:
    """The position is read without its lock."""
    patch.setattr(Positions, "lock", Positions.read)


MUTATIONS: Final[Mapping[Callable[[Patch], None], str]] = {
    records_fetched_before_the_seek_are_accepted: "account",
    effects_are_committed_without_the_position: "rows",
    the_window_is_trusted_and_updated_before_the_commit: "account",
    duplicates_are_found_in_memory_only: "account",
    identities_are_known_in_memory_only: "account",
    a_seek_is_missed_and_gaps_are_believed: "account",
    a_failed_record_is_skipped: "account",
    what_retention_deleted_passes_for_a_gap: "account",
    a_fetch_that_failed_is_not_noticed: "account",
    a_topic_that_was_recreated_is_read_on: "rest",
    a_zombie_and_its_successor_are_not_serialised: "account",
}
"""Each with the check that fails for it first. (Without the lock of the position it is the account, or ingest itself that notices and halts.)"""
