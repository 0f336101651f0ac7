"""The aggregator's composition root."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from services.aggregator.counters import Counters
from services.aggregator.handlers import ApplyRecorded
from services.aggregator.jobs import (
    InboxPruning,
    KeyDaysForgetting,
    ProviderVerdicts,
    ReservationExpiry,
    UsageSummaryRefresh,
)
from services.aggregator.rolling import QuotaResets
from services.aggregator.settings import Settings
from services.aggregator.status import StatusPublisher
from shared.clock import SystemClock
from shared.consumer import ExactlyOnceConsumer
from shared.contracts import BILLING_EVENTS, SUBSCRIPTION_STATUS, USAGE_RECORDED
from shared.gathering import Pace
from shared.kafka import OutboxProducer, Subscription, make_broker, subscribe
from shared.metrics import ConsumerMetrics
from shared.outbox import Outbox
from shared.positions import Positions
from shared.postgres import Pool
from shared.worker import Periodic, Worker

GROUP = "tallystick-aggregator"
FORGET_SECONDS = 3600.0


def build(settings: Settings, pool: Pool) -> Worker:
    """Wire an aggregator worker."""
    broker = make_broker(settings, client_id=f"{GROUP}-{settings.instance}")
    clock, produce, pace = SystemClock(), OutboxProducer(broker), Pace(settings.aggregator_gather_seconds)
    outbox = Outbox("aggregator_outbox")
    counters = Counters(settings.quota_policy(), outbox)
    statuses = StatusPublisher(pool, produce, clock, seconds=settings.aggregator_status_seconds)
    consumer = ExactlyOnceConsumer(
        pool=pool,
        positions=Positions("aggregator_positions", cluster=settings.kafka_cluster),
        apply=ApplyRecorded(settings.kafka_cluster, clock, counters, statuses.wake, pace),
        metrics=ConsumerMetrics(USAGE_RECORDED),
        lanes=settings.aggregator_lanes,
        pace=pace,
    )
    subscribe(
        broker, consumer, Subscription(USAGE_RECORDED, GROUP, settings.instance, settings.aggregator_batch_messages)
    )
    providers = ProviderVerdicts(
        pool,
        clock,
        window=timedelta(minutes=settings.aggregator_provider_window_minutes),
        keep=timedelta(days=settings.aggregator_provider_keep_days),
    )
    reservations = ReservationExpiry(pool, clock, keep=timedelta(hours=settings.aggregator_reservation_keep_hours))
    return Worker(
        name="aggregator",
        broker=broker,
        consumers=[consumer],
        topics=[USAGE_RECORDED, SUBSCRIPTION_STATUS, BILLING_EVENTS],
        periodic=[
            Periodic("status publication", 0.0, statuses.wait_and_publish),
            Periodic(
                "quota resets", settings.aggregator_reset_seconds, QuotaResets(pool, clock, counters, statuses.wake)
            ),
            Periodic("reservation expiry", settings.aggregator_reservation_seconds, reservations),
            Periodic("finished reservations", FORGET_SECONDS / 60, reservations.forget),
            Periodic(
                "alert publication",
                settings.aggregator_outbox_seconds,
                partial(outbox.empty, pool, produce, service="aggregator", older_than_seconds=0),
            ),
            Periodic("provider health", settings.aggregator_provider_health_seconds, providers),
            Periodic("provider observations", FORGET_SECONDS, providers.forget),
            Periodic(
                "days of keys",
                FORGET_SECONDS,
                KeyDaysForgetting(pool, clock, timedelta(days=settings.aggregator_key_keep_days)),
            ),
            Periodic(
                "inbox pruning",
                FORGET_SECONDS,
                InboxPruning(pool, clock, timedelta(days=settings.aggregator_inbox_keep_days)),
            ),
            Periodic("usage summary", settings.aggregator_usage_summary_seconds, UsageSummaryRefresh(pool)),
        ],
    )
