"""One pass over a batch's records (pure): each is judged, attributed and packed before the next one is looked at.

An event's objects are so used while they are in the processor's cache, and gone before the next one needs their memory: pass by
pass over the whole batch, the same steps took nearly twice as long. Only what is plain is packed: the usage of a known owner under
an id that nothing speaks against. The rest is handed on, to be stored with care.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from services.ingest.acceptance import Correction, Limits, Rejected, accept
from services.ingest.packing import Packed, pack
from shared.contracts import UsageEvent
from shared.ids import event_key

if TYPE_CHECKING:
    from services.ingest.attribution import Owner
    from shared.slices import Record


@dataclass(slots=True)
class Decoded:
    """A batch's records by what they are: usage, corrections of usage, or refused."""

    usage: list[tuple[Record, UsageEvent]] = field(default_factory=list)
    corrections: list[tuple[Record, Correction]] = field(default_factory=list)
    refused: list[tuple[Record, Rejected]] = field(default_factory=list)

    def note(self, record: Record, found: UsageEvent | Correction | Rejected) -> None:
        """Put a record where it belongs."""
        if isinstance(found, UsageEvent):
            self.usage.append((record, found))
        elif isinstance(found, Rejected):
            self.refused.append((record, found))
        else:
            self.corrections.append((record, found))


class Keys(Collection[bytes], Protocol):
    """The 16-byte ids of a batch, each once."""

    def add(self, key: bytes, /) -> None: ...


@dataclass(slots=True)
class Swept:
    """What one pass made of a batch: events ready to be copied, their ids, and the rest."""

    packed: Packed
    keys: Keys
    rest: Decoded


@dataclass(frozen=True, slots=True)
class Sweep:
    """How to go over a batch. `owner_of` answers for those whom it remembers; an id that is recent or `known` is not packed."""

    limits: Limits
    window: tuple[datetime, datetime]
    owner_of: Callable[[UsageEvent], Owner | None]
    recent: tuple[Container[bytes], Container[bytes]] = ((), ())
    known: Set[bytes] = frozenset()

    def plain(
        self, records: Iterable[Record], keys: Keys | set[bytes], rest: Decoded
    ) -> Iterator[tuple[Record, bytes, UsageEvent, Owner]]:
        """Go over records, and hand on those that can be packed, one at a time. Their ids join `keys`, the others `rest`."""
        (earliest, latest), limits, owner_of = self.window, self.limits, self.owner_of
        (young, old), known = self.recent, self.known
        for record in records:
            found = accept(record.value, record.headers, limits, earliest, latest)
            if not isinstance(found, UsageEvent) or (owner := owner_of(found)) is None:
                rest.note(record, found)
                continue
            key = event_key(found.source, found.id)
            if key in keys or key in young or key in old or key in known:
                rest.note(record, found)
                continue
            keys.add(key)
            yield record, key, found, owner


class Sweeper(Protocol):
    """Goes over batches."""

    def __call__(self, sweep: Sweep, records: Sequence[Record], batch_id: UUID, generation: int) -> Swept:
        """Return what becomes of `records`. Raises what `pack` raises."""


def sweep_plainly(sweep: Sweep, records: Sequence[Record], batch_id: UUID, generation: int) -> Swept:
    """Go over a batch in Python (a `Sweeper`)."""
    keys, rest = set[bytes](), Decoded()
    return Swept(pack(sweep.plain(records, keys, rest), batch_id, generation), keys, rest)
