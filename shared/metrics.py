"""The kernel's metrics: what every consumer and every worker reports. Bounded labels, base units, never tenant ids."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from prometheus_client import Counter, Gauge

CONSUMER_PARTITIONS = Gauge(
    "tallystick_consumer_partitions",
    "Partitions of this worker by state: assigned, synced (running), halted.",
    ["topic", "state"],
)
CONSUMER_POSITION = Gauge(
    "tallystick_consumer_position", "Next offset to read, as committed with its effects.", ["topic", "partition"]
)
CONSUMER_LAG = Gauge(
    "tallystick_consumer_lag_records",
    "Records between our position and the end of the partition.",
    ["topic", "partition"],
)
CONSUMER_LAG_SECONDS = Gauge(
    "tallystick_consumer_lag_seconds",
    "Age of the last record that was applied, by the broker's or producer's time, while others wait behind it; 0 if none does.",
    ["topic", "partition"],
)
CONSUMER_REDELIVERIES = Counter(
    "tallystick_consumer_redeliveries", "Batches that failed and are read again, by kind of error.", ["topic", "error"]
)
OUTBOX_WAITING = Gauge(
    "tallystick_outbox_waiting_messages", "Messages committed but not yet acknowledged by the broker.", ["outbox"]
)
OUTBOX_AGE = Gauge("tallystick_outbox_oldest_seconds", "Age of the oldest of them.", ["outbox"])
LOOP_DELAY = Gauge("tallystick_event_loop_delay_seconds", "How late the event loop ran its last heartbeat.")


@dataclass(slots=True)
class ConsumerMetrics:
    """What one consumer reports of one topic; also remembers when it last got on, for the liveness probe."""

    topic: str
    last_progress: float = field(default_factory=monotonic)

    def assigned(self, assigned: int, synced: int, halted: int) -> None:
        """Set how many partitions are in which state."""
        for state, count in (("assigned", assigned), ("synced", synced), ("halted", halted)):
            CONSUMER_PARTITIONS.labels(self.topic, state).set(count)

    def progressed(self, partition: int, next_offset: int, end: int | None) -> None:
        """Set where a partition stands after a commit; `end` is the broker's high watermark if known."""
        self.last_progress = monotonic()
        CONSUMER_POSITION.labels(self.topic, partition).set(next_offset)
        if end is not None:
            self.lags(partition, max(0, end - next_offset))

    def lags(self, partition: int, records: int) -> None:
        """Set how far a partition is behind."""
        CONSUMER_LAG.labels(self.topic, partition).set(records)

    def lags_seconds(self, partition: int, seconds: float) -> None:
        """Set how old the last record is that a partition has applied, while it is behind."""
        CONSUMER_LAG_SECONDS.labels(self.topic, partition).set(seconds)

    def gone(self, partition: int) -> None:
        """Say no more of a partition that is somebody else's now: two workers would report it."""
        for gauge in (CONSUMER_POSITION, CONSUMER_LAG, CONSUMER_LAG_SECONDS):
            with suppress(KeyError):
                gauge.remove(self.topic, partition)

    def redelivered(self, error: str) -> None:
        """Count a batch that failed."""
        CONSUMER_REDELIVERIES.labels(self.topic, error).inc()
