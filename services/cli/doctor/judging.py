"""Judges the facts of the database. Pure: what is found follows from the facts alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from services.cli.doctor.facts import Database
from services.cli.doctor.finding import Finding, Severity
from services.cli.doctor.settings import RULES

CONNECTIONS_SHARE: Final = (0.8, 0.95)
"""Of the connections that may be open: from here on a warning, from here on an error."""
SERVICES: Final = 4
CLOCK: Final = (timedelta(seconds=1), timedelta(seconds=30))
XID_AGE: Final = (500_000_000, 1_200_000_000)
"""At 2,100 million the server stops writing."""
DEAD_ROWS: Final = 10_000
DEAD_SHARE: Final = 0.3
ANALYZE_ROWS: Final = 50_000
OPEN_SECONDS: Final = (300.0, 3600.0)
OUTBOX_SECONDS: Final = (60.0, 600.0)
WAL_BYTES: Final = 10 * 2**30


def judge_database(facts: Database, *, now: datetime, pool_max: int) -> list[Finding]:
    """Return what is wrong with the database. `pool_max` is the most connections that one worker opens."""
    return [
        *_state(facts),
        *_settings(facts),
        *_connections(facts, pool_max),
        *_clock(facts),
        *_age(facts),
        *_partitions(facts, now),
        *_rights(facts),
        *_tables(facts),
        *_sessions(facts),
        *_waiting(facts),
    ]


def _state(facts: Database) -> Iterator[Finding]:
    if facts.read_only:
        yield Finding(
            "error",
            "read-only",
            "the database takes no writes: it is a standby, or was demoted",
            "let DATABASE_URL name what follows the primary; runbook database-lost",
        )
    if facts.pending_migrations:
        names = ", ".join(facts.pending_migrations)
        yield Finding("warning", "migrations", f"not applied yet: {names}", "run `tallystick migrate`")


def _settings(facts: Database) -> Iterator[Finding]:
    for name, rule in RULES.items():
        if facts.settings.get(name) == rule.wrong:
            yield Finding(rule.severity, f"setting {name}", f"{name} is {rule.wrong}: {rule.why}", rule.do)


def _connections(facts: Database, pool_max: int) -> Iterator[Finding]:
    number = {
        name: int(facts.settings.get(name, "0"))
        for name in ("max_connections", "superuser_reserved_connections", "reserved_connections")
    }
    usable = number["max_connections"] - number["superuser_reserved_connections"] - number["reserved_connections"]
    used = sum(facts.connections.values())
    if severity := _severity(used / max(usable, 1), CONNECTIONS_SHARE):
        most = sorted(facts.connections.items(), key=lambda item: -item[1])[:3]
        yield Finding(
            severity,
            "connections",
            f"{used} of {usable} connections are open; most by {', '.join(f'{name} ({count})' for name, count in most)}",
            "lower TALLYSTICK_DATABASE_POOL_MAX, put PgBouncer before the server, or raise max_connections",
        )
    if usable < SERVICES * pool_max:
        yield Finding(
            "warning",
            "connections",
            f"{usable} connections may be open, one worker of each service may want {SERVICES * pool_max} ({pool_max} each)",
            "raise max_connections, or lower TALLYSTICK_DATABASE_POOL_MAX",
        )


def _clock(facts: Database) -> Iterator[Finding]:
    apart = abs(facts.clock_ahead) - facts.clock_uncertainty
    if severity := _severity(apart / timedelta(seconds=1), tuple(limit / timedelta(seconds=1) for limit in CLOCK)):
        which = "ahead of" if facts.clock_ahead > timedelta() else "behind"
        yield Finding(
            severity,
            "clock",
            f"the database's clock is {abs(facts.clock_ahead).total_seconds():.1f} s {which} this machine's",
            "let NTP (chrony) set both: events of the future are refused, and months begin when the clock says so",
        )


def _age(facts: Database) -> Iterator[Finding]:
    if severity := _severity(facts.xid_age, XID_AGE):
        yield Finding(
            severity,
            "transaction ids",
            f"the oldest transaction id is {facts.xid_age:,} old; at 2,100,000,000 the server stops writing",
            "end old transactions and unused replication slots, then VACUUM (FREEZE) the largest tables",
        )


def _partitions(facts: Database, now: datetime) -> Iterator[Finding]:
    if not facts.missing_months:
        return
    present = f"{now:%Y-%m}" in facts.missing_months
    yield Finding(
        "error" if present else "warning",
        "partitions",
        f"usage_logs has no partition for {', '.join(facts.missing_months)}"
        + (": events of now cannot be stored" if present else ""),
        "run `tallystick partitions ensure`; ingest does it by a timer, see its log",
    )


def _rights(facts: Database) -> Iterator[Finding]:
    for role in facts.roles:
        if not role.exists:
            what = f"role {role.name} is missing: its service works with the rights of its login"
            yield Finding("warning", "roles", what, f"CREATE ROLE {role.name}, then `tallystick migrate`")
        elif role.missing_rights:
            what = f"role {role.name} lacks {role.missing_rights} of its rights: its service fails with 'permission denied'"
            yield Finding("error", "roles", what, "run `tallystick migrate`, which grants what role_rights says")


def _tables(facts: Database) -> Iterator[Finding]:
    for index in facts.invalid_indexes:
        yield Finding(
            "warning",
            "indexes",
            f"index {index} is invalid: its concurrent build failed; it is written to and never read",
            f"DROP INDEX CONCURRENTLY {index}, and build it again",
        )
    for table in facts.tables:
        if table.dead > DEAD_ROWS and table.dead > DEAD_SHARE * (table.live + table.dead):
            last = f"{table.last_vacuum:%Y-%m-%d %H:%M} UTC" if table.last_vacuum else "never"
            yield Finding(
                "warning",
                "bloat",
                f"{table.name} has {table.dead:,} dead rows beside {table.live:,} live ones; last vacuumed: {last}",
                f"VACUUM (ANALYZE) {table.name}; if it comes back, an old transaction or a slot holds rows, or autovacuum is too slow",
            )
        if table.live > ANALYZE_ROWS and table.last_analyze is None:
            what = f"{table.name} has {table.live:,} rows and was never analyzed: the planner guesses"
            yield Finding("warning", "statistics", what, f"ANALYZE {table.name}")


def _sessions(facts: Database) -> Iterator[Finding]:
    for session in facts.sessions:
        severity = _severity(session.seconds, OPEN_SECONDS) or ("warning" if session.blocks else None)
        if severity:
            waiting = f"; {session.blocks} sessions wait for it" if session.blocks else ""
            yield Finding(
                severity,
                "transactions",
                f"process {session.pid} ({session.user}, {session.application}, {session.state}) has had a transaction open for "
                f"{session.seconds:,.0f} s{waiting}: dead rows stay, and changes of the schema wait",
                f"SELECT pg_terminate_backend({session.pid}), once you know whose it is",
            )


def _waiting(facts: Database) -> Iterator[Finding]:
    for service, seconds in facts.outboxes.items():
        if severity := _severity(seconds, OUTBOX_SECONDS):
            yield Finding(
                severity,
                "outbox",
                f"the oldest message of {service} has waited for {seconds:,.0f} s to be published",
                "see whether the broker answers and the service runs; runbook broker-lost",
            )
    for slot in facts.slots:
        if not slot.active and slot.kept_bytes > WAL_BYTES:
            yield Finding(
                "error",
                "replication slots",
                f"nobody reads slot {slot.name}, which keeps {slot.kept_bytes / 2**30:,.1f} GiB of WAL: the disk will be full",
                f"start its reader, or SELECT pg_drop_replication_slot('{slot.name}')",
            )


def _severity(value: float, limits: tuple[float, ...]) -> Severity | None:
    """Return how bad a value is by the limits of a warning and of an error."""
    return "error" if value >= limits[1] else "warning" if value >= limits[0] else None
