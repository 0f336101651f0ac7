"""Ingest's composition root."""

from __future__ import annotations

from datetime import timedelta

from services.ingest.attribution import Attributor
from services.ingest.compiled import load, make_sweeper
from services.ingest.compiled_reading import CompiledReader
from services.ingest.handlers import IngestBatch
from services.ingest.held import HeldEvents
from services.ingest.log import UsageLog
from services.ingest.partitions.ahead import IdentityGenerations, PartitionsAhead
from services.ingest.publishing import LEFTOVER_SECONDS, Publishing
from services.ingest.refusals import Refusals
from services.ingest.settings import Settings
from shared.clock import SystemClock
from shared.consumer import ExactlyOnceConsumer
from shared.contracts import USAGE_DEAD_LETTER, USAGE_EVENTS, USAGE_RECORDED
from shared.fetching import read_batches_with
from shared.kafka import PARTITION_FETCH_BYTES, OutboxProducer, Subscription, make_broker, subscribe
from shared.metrics import ConsumerMetrics
from shared.outbox import Outbox
from shared.positions import Positions
from shared.postgres import Pool
from shared.worker import Periodic, Worker

GROUP = "tallystick-ingest"
AHEAD_SECONDS = 3600.0


def build(settings: Settings, pool: Pool) -> Worker:
    """Wire an ingest worker."""
    broker = make_broker(settings, client_id=f"{GROUP}-{settings.instance}")
    limits, attributor, native = settings.limits(), Attributor(), load(settings.ingest_compiled)
    read_batches_with(CompiledReader(native) if native else None)
    sweeper, recent = make_sweeper(native, limits, attributor.known_as, settings.ingest_recent_events)
    outbox = Outbox("ingest_outbox")
    publishing = Publishing(pool, outbox, OutboxProducer(broker))
    ingest = IngestBatch(
        cluster=settings.kafka_cluster,
        limits=limits,
        clock=SystemClock(),
        log=UsageLog(pool, recent),
        recent=recent,
        attributor=attributor,
        outbox=outbox,
        publishing=publishing,
        refusals=Refusals(settings.refusal_limits()),
        sweeper=sweeper,
    )
    consumer = ExactlyOnceConsumer(
        pool=pool,
        positions=Positions("ingest_positions", cluster=settings.kafka_cluster),
        apply=ingest,
        metrics=ConsumerMetrics(USAGE_EVENTS),
        lanes=settings.ingest_lanes,
        gathered_bytes=PARTITION_FETCH_BYTES + 2**20,  # what one fetch has of a partition waits, and holds up no other
    )
    subscribe(broker, consumer, Subscription(USAGE_EVENTS, GROUP, settings.instance, settings.ingest_batch_records))
    return Worker(
        name="ingest",
        broker=broker,
        consumers=[consumer],
        topics=[USAGE_EVENTS, USAGE_RECORDED, USAGE_DEAD_LETTER],
        periodic=[
            Periodic("held events", 1.0, HeldEvents(pool, ingest).attribute),
            Periodic("outbox leftovers", LEFTOVER_SECONDS, publishing.leftovers),
            Periodic(
                "partitions ahead",
                AHEAD_SECONDS,
                PartitionsAhead(pool, SystemClock(), settings.ingest_partitions_ahead),
            ),
            Periodic(
                "identity generations",
                AHEAD_SECONDS,
                IdentityGenerations(
                    pool,
                    SystemClock(),
                    turn_after=timedelta(days=settings.ingest_identity_generation_days),
                    guard_for=timedelta(days=settings.ingest_identity_days),
                ),
            ),
        ],
        on_start=[lambda: attributor.begin(pool)],
        on_stop=[publishing.finish],
    )
