"""Judges the facts of Kafka, and the positions against them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from services.cli.doctor.facts import Kafka, Position, Topic
from services.cli.doctor.finding import Finding
from shared.contracts import COMPACTED_TOPICS, USAGE_EVENTS, USAGE_RECORDED

READ_BY: Final = {"ingest": USAGE_EVENTS, "aggregator": USAGE_RECORDED, "billing": USAGE_RECORDED}
LAG_RECORDS: Final = 100_000
RETENTION_MS: Final = 3 * 24 * 3600 * 1000
"""Shorter than this, a weekend without anybody loses usage."""


Short = tuple[str, int, str, int]
"""A topic with its number of partitions, and the topic whose number it should have."""


def judge_kafka(
    facts: Kafka, wanted: Sequence[str], positions: Sequence[Position], short: Sequence[Short] = ()
) -> list[Finding]:
    """Return what is wrong with the topics. `wanted` are those that there should be, by name without prefix."""
    missing = [name for name in wanted if name not in facts.topics]
    return [
        *(
            [Finding("error", "topics", f"Kafka has no topic {', '.join(missing)}", "run `tallystick topics`")]
            if missing
            else []
        ),
        *_single_copies(facts),
        *(finding for topic in facts.topics.values() for finding in _topic(topic)),
        *_counts(short),
        *(finding for position in positions for finding in _position(position, facts)),
    ]


def _single_copies(facts: Kafka) -> Iterator[Finding]:
    single = [topic.name for topic in facts.topics.values() if _copies(topic) == 1]
    if single:
        what = f"one broker that is lost takes records with it: there is one copy of {', '.join(single)}" + (
            ", and one broker only" if facts.brokers == 1 else ""
        )
        do = "replicate to 3 brokers (kafka-reassign-partitions.sh), with min.insync.replicas=2"
        yield Finding("warning", "replication", what, do)


def _copies(topic: Topic) -> int:
    return min((partition.replicas for partition in topic.partitions), default=0)


def _topic(topic: Topic) -> Iterator[Finding]:
    replicas = _copies(topic)
    if behind := [str(p.number) for p in topic.partitions if p.in_sync < p.replicas]:
        what = f"{topic.name} has copies that are behind, in partition {', '.join(behind)}"
        yield Finding("warning", "replication", what, "see which broker is down or slow; runbook broker-lost")
    elif replicas > 1 and int(topic.settings.get("min.insync.replicas", "1")) < 2:
        what = f"{topic.name} has {replicas} copies, but min.insync.replicas=1 acknowledges with one of them"
        yield Finding("warning", "replication", what, "set min.insync.replicas=2 on the topic")
    yield from _expiry(topic)


def _expiry(topic: Topic) -> Iterator[Finding]:
    compacted = "compact" in topic.settings.get("cleanup.policy", "delete")
    if compacted and topic.name not in COMPACTED_TOPICS:
        what = f"{topic.name} is compacted: of records with one key only the last stays, the others are lost"
        yield Finding("error", "compaction", what, "set cleanup.policy=delete on the topic, at once")
    if not compacted and topic.name in COMPACTED_TOPICS:
        what = f"{topic.name} is not compacted: who starts later does not see the state of all keys"
        yield Finding("warning", "compaction", what, "set cleanup.policy=compact on the topic")
    retention = int(topic.settings.get("retention.ms", "-1"))
    if topic.name in READ_BY.values() and not compacted and 0 <= retention < RETENTION_MS:
        what = f"{topic.name} keeps records for {retention / 3_600_000:,.1f} h only: a pipeline that stands for so long loses them"
        yield Finding(
            "warning", "retention", what, "set retention.ms to 7 days (604800000), and to more than backups are old"
        )


def _counts(short: Sequence[Short]) -> Iterator[Finding]:
    for topic, partitions, source, count in short:
        what = f"{topic} has {partitions} partitions, {source} has {count}: ingest does not start"
        yield Finding("error", "topics", what, "run `tallystick topics --grow`")


def _position(position: Position, facts: Kafka) -> Iterator[Finding]:
    topic = facts.topics.get(READ_BY[position.service])
    found = [p for p in topic.partitions if p.number == position.partition] if topic else []
    if not topic or not found:
        return
    partition, where = found[0], f"{position.service} in partition {position.partition} of {topic.name}"
    behind = partition.end_offset - position.next_offset
    if behind < 0:
        what = f"{where} is at {position.next_offset:,}, the topic ends at {partition.end_offset:,}: it was recreated or truncated"
        yield Finding("error", "positions", what, "how-to topic-recreated")
    elif partition.first_offset > position.next_offset:
        lost = partition.first_offset - position.next_offset
        what = f"{where} is at {position.next_offset:,}, the topic begins at {partition.first_offset:,}: {lost:,} records were deleted unread"
        yield Finding("error", "retention", what, "how-to retention-overrun")
    elif behind and partition.middle_offset is not None and position.next_offset < partition.middle_offset:
        what = f"{where} has not read records that are older than half of the topic's retention"
        yield Finding(
            "error",
            "retention",
            what,
            "raise retention.ms of the topic now, then see why it does not read; runbook lag-grows",
        )
    elif behind >= LAG_RECORDS:
        what = f"{where} is {behind:,} records behind"
        yield Finding("warning", "lag", what, "add workers, up to one per partition; runbook lag-grows")
