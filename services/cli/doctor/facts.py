"""What the doctor looks at: facts as they were read, judged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its indexes; a partition counts by itself. Rows are as the statistics have them."""

    name: str
    table_bytes: int
    index_bytes: int
    live: int
    dead: int
    last_vacuum: datetime | None
    last_analyze: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """A session with an open transaction."""

    pid: int
    user: str
    application: str
    state: str
    seconds: float
    blocks: int
    """How many other sessions wait for it."""


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the services, and whether it has the rights that `role_rights` says."""

    name: str
    exists: bool
    missing_rights: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot, and how many bytes of WAL it keeps."""

    name: str
    active: bool
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Position:
    """How far a service is in one partition."""

    service: str
    topic: str
    partition: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Database:
    """What Postgres says of itself and of the schema."""

    version: str
    name: str
    bytes: int
    settings: Mapping[str, str]
    read_only: bool
    clock_ahead: timedelta
    """How far its clock is ahead of this machine's, after half of the way there and back."""
    clock_uncertainty: timedelta
    connections: Mapping[str, int]
    """By application."""
    xid_age: int
    pending_migrations: tuple[str, ...]
    tables: tuple[Table, ...]
    invalid_indexes: tuple[str, ...]
    sessions: tuple[Session, ...]
    missing_months: tuple[str, ...]
    roles: tuple[Role, ...]
    slots: tuple[Slot, ...]
    positions: tuple[Position, ...]
    outboxes: Mapping[str, float]
    """By service: for how many seconds the oldest message has waited."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a topic on the broker."""

    number: int
    first_offset: int
    end_offset: int
    replicas: int
    in_sync: int
    middle_offset: int | None
    """The first offset that is younger than half of the retention; None where all is younger, or nothing expires."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic by its name without the prefix."""

    name: str
    partitions: tuple[Partition, ...]
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Kafka:
    """What the brokers say."""

    brokers: int
    topics: Mapping[str, Topic] = field(default_factory=dict)
