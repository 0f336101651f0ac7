"""Billing's composition root."""

from __future__ import annotations

from functools import partial

from services.billing.credits.credits import Pending
from services.billing.credits.settlement import Settling
from services.billing.handlers import RateRecorded
from services.billing.jobs import JobStanding, all_jobs, observe_run
from services.billing.notices.jobs import make_watch
from services.billing.notices.lane import webhook_lane
from services.billing.rating.prices import Prices
from services.billing.reconciliation.jobs import LastReconciliation
from services.billing.settings import Settings
from services.billing.upkeep import HeldUsage
from shared.clock import SystemClock
from shared.consumer import ExactlyOnceConsumer
from shared.contracts import BILLING_EVENTS, USAGE_RECORDED
from shared.gathering import Pace
from shared.jobs import Timer
from shared.kafka import OutboxProducer, Subscription, make_broker, subscribe
from shared.metrics import ConsumerMetrics
from shared.outbox import Outbox
from shared.positions import Positions
from shared.postgres import Pool
from shared.worker import Periodic, Worker

GROUP = "tallystick-billing"
TIMER_SECONDS = 60.0


def build(settings: Settings, pool: Pool) -> Worker:
    """Wire a billing worker."""
    broker = make_broker(settings, client_id=f"{GROUP}-{settings.instance}")
    clock, outbox, pace = SystemClock(), Outbox("billing_outbox"), Pace(settings.billing_gather_seconds)
    prices = Prices(settings.billing_byok_factor)
    pending = Pending({}, settings.billing_urgent_share)  # the rates are read before each settlement
    settling = Settling(pool, clock, outbox, pending)
    jobs = all_jobs(settings, pool, clock)
    timer = Timer(pool, clock, jobs, worker=settings.instance, observe=observe_run)
    webhooks = webhook_lane(settings, pool, clock, outbox)
    consumer = ExactlyOnceConsumer(
        pool=pool,
        positions=Positions("billing_positions", cluster=settings.kafka_cluster),
        apply=RateRecorded(settings.kafka_cluster, clock, prices, settling, pace),
        metrics=ConsumerMetrics(USAGE_RECORDED),
        lanes=settings.billing_lanes,
        pace=pace,
    )
    subscribe(broker, consumer, Subscription(USAGE_RECORDED, GROUP, settings.instance, settings.billing_batch_messages))
    return Worker(
        name="billing",
        broker=broker,
        consumers=[consumer],
        topics=[USAGE_RECORDED, BILLING_EVENTS],
        periodic=[
            Periodic("settlement", settings.billing_settlement_seconds, settling.settle_all),
            Periodic("held usage", settings.billing_held_seconds, HeldUsage(pool, clock, prices)),
            Periodic(
                "event publication",
                settings.billing_outbox_seconds,
                partial(outbox.empty, pool, OutboxProducer(broker), service="billing", older_than_seconds=0),
            ),
            Periodic("webhooks", settings.billing_webhook_seconds, webhooks),
            Periodic("chosen quotas", settings.billing_quota_watch_seconds, make_watch(pool, clock, settings).quotas),
            Periodic("jobs", TIMER_SECONDS, timer.keep_running),
            Periodic("how jobs stand", TIMER_SECONDS, JobStanding(pool, clock, jobs)),
            Periodic("last reconciliation", TIMER_SECONDS, LastReconciliation(pool)),
        ],
        on_stop=[timer.stop, settling.settle_all],
    )
