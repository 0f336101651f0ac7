"""The kernel's metrics: what every consumer and every worker reports. Bounded labels, base units, never tenant ids."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from prometheus_client import Counter, Gauge, Histogram

_BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAIT_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30)

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
CONSUMER_BROKER_ANSWERED = Gauge(
    "tallystick_consumer_broker_answered_timestamp_seconds",
    "When the broker last said where partitions end, as Unix time. The lag is as old as this.",
    ["topic"],
)
CONSUMER_REDELIVERIES = Counter(
    "tallystick_consumer_redeliveries", "Batches that failed and are read again, by kind of error.", ["topic", "error"]
)
CONSUMER_BATCH_SECONDS = Histogram(
    "tallystick_consumer_batch_seconds",
    "Time to apply one batch of a partition and to commit it with its position.",
    ["topic"],
    buckets=_BATCH_SECONDS,
)
OUTBOX_WAITING = Gauge(
    "tallystick_outbox_waiting_messages", "Messages committed but not yet acknowledged by the broker.", ["outbox"]
)
OUTBOX_AGE = Gauge("tallystick_outbox_oldest_seconds", "Age of the oldest of them.", ["outbox"])
LOOP_DELAY = Gauge("tallystick_event_loop_delay_seconds", "How late the event loop ran its last heartbeat.")
DATABASE_CONNECTIONS = Gauge(
    "tallystick_database_connections",
    "Connections to Postgres that this process has, by state: in_use, idle.",
    ["state"],
)
DATABASE_CONNECTIONS_MOST = Gauge(
    "tallystick_database_connections_max", "Most connections to Postgres that this process opens."
)
DATABASE_WAIT = Histogram(
    "tallystick_database_wait_seconds", "How long a transaction waited for a connection.", buckets=_WAIT_SECONDS
)
CERTIFICATE_EXPIRES = Gauge(
    "tallystick_certificate_expires_timestamp_seconds",
    "When the first certificate of a file ends to be valid, as Unix time, by the setting that names the file; read when this process started.",
    ["setting"],
)


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

    def answered(self) -> None:
        """Note that the broker answers."""
        CONSUMER_BROKER_ANSWERED.labels(self.topic).set_to_current_time()

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

    def applied(self, seconds: float) -> None:
        """Observe a batch that was committed."""
        CONSUMER_BATCH_SECONDS.labels(self.topic).observe(seconds)

    def redelivered(self, error: str) -> None:
        """Count a batch that failed."""
        CONSUMER_REDELIVERIES.labels(self.topic, error).inc()
