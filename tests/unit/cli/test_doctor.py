"""What the doctor finds follows from the facts alone; healthy facts give nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from services.cli.doctor import command
from services.cli.doctor.facts import Database, Kafka, Partition, Position, Role, Session, Slot, Table, Topic
from services.cli.doctor.finding import Finding
from services.cli.doctor.judging import judge_database
from services.cli.doctor.judging_kafka import judge_kafka
from shared.contracts import COMPACTED_TOPICS, USAGE_EVENTS, USAGE_RECORDED

NOW: Final = datetime(2026, 11, 28, 12, tzinfo=UTC)
TABLE: Final = Table("usage_logs_2026_11", 10**9, 10**9, 10**6, 1000, NOW, NOW)
DATABASE: Final = Database(
    version="18.4",
    name="tallystick",
    bytes=10**10,
    settings={
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "autovacuum": "on",
        "track_counts": "on",
        "zero_damaged_pages": "off",
        "data_checksums": "on",
        "max_connections": "103",
        "superuser_reserved_connections": "3",
        "reserved_connections": "0",
    },
    read_only=False,
    clock_ahead=timedelta(milliseconds=4),
    clock_uncertainty=timedelta(milliseconds=1),
    connections={"tallystick-ingest": 8, "tallystick-api": 20},
    xid_age=200_000_000,
    pending_migrations=(),
    tables=(TABLE,),
    invalid_indexes=(),
    sessions=(),
    missing_months=(),
    roles=(Role("tallystick_ingest", True, 0),),
    slots=(Slot("standby", True, 10**12),),
    positions=(Position("ingest", USAGE_EVENTS, 0, 500), Position("billing", USAGE_RECORDED, 0, 90)),
    outboxes={"ingest": 0.5},
)


def judged(**changed: Any) -> list[Finding]:
    return judge_database(replace(DATABASE, **changed), now=NOW, pool_max=8)


def setting(name: str, value: str) -> dict[str, Any]:
    return {"settings": {**DATABASE.settings, name: value}}


def session(seconds: float, blocks: int = 0) -> dict[str, Any]:
    return {"sessions": (Session(4711, "ada", "psql", "idle in transaction", seconds, blocks),)}


def test_a_healthy_database_has_nothing() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("changed", "severity", "check", "says"),
    [
        (setting("fsync", "off"), "error", "setting fsync", "destroys the database"),
        (setting("synchronous_commit", "off"), "error", "setting synchronous_commit", "issued invoices"),
        (setting("autovacuum", "off"), "error", "setting autovacuum", "without bound"),
        (setting("data_checksums", "off"), "note", "setting data_checksums", "not noticed"),
        (
            setting("max_connections", "34") | {"connections": {}},
            "warning",
            "connections",
            "31 connections may be open",
        ),
        (
            {"connections": {"a": 70, "b": 12}},
            "warning",
            "connections",
            "82 of 100 connections are open; most by a (70)",
        ),
        ({"connections": {"a": 95}}, "error", "connections", "95 of 100"),
        ({"read_only": True}, "error", "read-only", "takes no writes"),
        ({"pending_migrations": ("0038_x.sql",)}, "warning", "migrations", "0038_x.sql"),
        ({"clock_ahead": timedelta(seconds=-3)}, "warning", "clock", "3.0 s behind"),
        ({"clock_ahead": timedelta(days=1)}, "error", "clock", "86400.0 s ahead of"),
        ({"xid_age": 600_000_000}, "warning", "transaction ids", "600,000,000 old"),
        ({"missing_months": ("2026-11", "2026-12")}, "error", "partitions", "events of now cannot be stored"),
        ({"missing_months": ("2027-01",)}, "warning", "partitions", "2027-01"),
        ({"roles": (Role("tallystick_api", False, 0),)}, "warning", "roles", "tallystick_api is missing"),
        ({"roles": (Role("tallystick_api", True, 2),)}, "error", "roles", "lacks 2 of its rights"),
        ({"invalid_indexes": ("usage_logs_x",)}, "warning", "indexes", "usage_logs_x is invalid"),
        ({"tables": (replace(TABLE, dead=10**6),)}, "warning", "bloat", "1,000,000 dead rows beside 1,000,000 live"),
        ({"tables": (replace(TABLE, last_analyze=None),)}, "warning", "statistics", "never analyzed"),
        (session(400), "warning", "transactions", "process 4711 (ada, psql, idle in transaction)"),
        (session(5, blocks=2), "warning", "transactions", "2 sessions wait for it"),
        (session(4000), "error", "transactions", "4,000 s"),
        ({"outboxes": {"billing": 61.0}}, "warning", "outbox", "message of billing has waited for 61 s"),
        ({"slots": (Slot("gone", False, 2**34),)}, "error", "replication slots", "gone, which keeps 16.0 GiB"),
    ],
)
def test_each_thing_that_is_wrong_is_found_alone(changed: dict[str, Any], severity: str, check: str, says: str) -> None:
    (finding,) = judged(**changed)
    assert (finding.severity, finding.check) == (severity, check)
    assert says in finding.what
    assert finding.do


def test_a_clock_is_not_blamed_for_a_slow_network() -> None:
    apart, slow = timedelta(seconds=4), timedelta(seconds=5)
    assert judged(clock_ahead=apart, clock_uncertainty=slow) == []


WANTED: Final = [USAGE_EVENTS, USAGE_RECORDED, *sorted(COMPACTED_TOPICS)]
PARTITION: Final = Partition(0, 100, 500, replicas=3, in_sync=3, middle_offset=300)


def topic(name: str, partition: Partition = PARTITION, **settings: str) -> Topic:
    policy = "compact" if name in COMPACTED_TOPICS else "delete"
    return Topic(
        name,
        (partition,),
        {"cleanup.policy": policy, "retention.ms": "604800000", "min.insync.replicas": "2"}
        | {name.replace("_", "."): value for name, value in settings.items()},
    )


def kafka(changed: Topic | None = None) -> Kafka:
    topics = {name: topic(name) for name in WANTED}
    return Kafka(3, topics | ({changed.name: changed} if changed else {}))


AT_END: Final = (Position("ingest", USAGE_EVENTS, 0, 500), Position("billing", USAGE_RECORDED, 0, 500))


def test_a_healthy_broker_has_nothing() -> None:
    assert judge_kafka(kafka(), WANTED, AT_END) == []


@pytest.mark.parametrize(
    ("changed", "severity", "check", "says"),
    [
        (
            topic(USAGE_EVENTS, replace(PARTITION, replicas=1, in_sync=1)),
            "warning",
            "replication",
            "one copy of usage.events",
        ),
        (topic(USAGE_EVENTS, replace(PARTITION, in_sync=2)), "warning", "replication", "behind, in partition 0"),
        (topic(USAGE_EVENTS, min_insync_replicas="1"), "warning", "replication", "min.insync.replicas=1"),
        (topic(USAGE_EVENTS, cleanup_policy="compact,delete"), "error", "compaction", "only the last stays"),
        (topic("subscription.status", cleanup_policy="delete"), "warning", "compaction", "not compacted"),
        (topic(USAGE_RECORDED, retention_ms="3600000"), "warning", "retention", "for 1.0 h only"),
    ],
)
def test_each_topic_that_is_wrong_is_found_alone(changed: Topic, severity: str, check: str, says: str) -> None:
    (finding,) = judge_kafka(kafka(changed), WANTED, AT_END)
    assert (finding.severity, finding.check) == (severity, check)
    assert says in finding.what


@pytest.mark.parametrize(
    ("at", "partition", "severity", "check", "says"),
    [
        (501, PARTITION, "error", "positions", "recreated or truncated"),
        (90, PARTITION, "error", "retention", "10 records were deleted unread"),
        (250, PARTITION, "error", "retention", "older than half of the topic's retention"),
        (400, replace(PARTITION, end_offset=200_400), "warning", "lag", "200,000 records behind"),
    ],
)
def test_positions_are_held_against_the_topic(
    at: int, partition: Partition, severity: str, check: str, says: str
) -> None:
    position = Position("ingest", USAGE_EVENTS, 0, at)
    (finding,) = judge_kafka(kafka(topic(USAGE_EVENTS, partition)), WANTED, (position,))
    assert (finding.severity, finding.check) == (severity, check)
    assert says in finding.what


def test_topics_that_are_missing_or_too_short_are_named() -> None:
    findings = judge_kafka(Kafka(3, {}), WANTED, AT_END, [(USAGE_RECORDED, 1, USAGE_EVENTS, 8)])
    assert [finding.check for finding in findings] == ["topics", "topics"]
    assert "no topic usage.events, usage.recorded" in findings[0].what
    assert "usage.recorded has 1 partitions, usage.events has 8" in findings[1].what


@pytest.mark.parametrize(
    ("severities", "fail_on", "code"),
    [
        ([], "note", 0),
        (["note"], "warning", 0),
        (["note"], "note", 1),
        (["warning"], "warning", 1),
        (["warning"], "error", 0),
        (["error"], "error", 1),
    ],
)
def test_the_exit_code_follows_the_severity(
    severities: list[Any], fail_on: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def examine(*, with_kafka: bool) -> tuple[Database, None, list[Finding]]:
        return DATABASE, None, [Finding(severity, "x", "what", "do") for severity in severities]

    monkeypatch.setattr(command, "_examine", examine)
    run: Callable[..., int] = command.doctor
    assert run(fail_on=command.From(fail_on), database_only=True, sizes=True, as_json=False) == code
