"""A replay from the command line: ingest's own parts put together without a consumer, and Kafka only if it answers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

import asyncpg

from deploy.local import connect as servers
from services.cli.operator import plural, schema_missing
from services.ingest.publishing import LEFTOVER_SECONDS
from services.ingest.quarantine import Choice, Replay, Replayed, without_consumer
from services.ingest.settings import Settings
from shared.errors import ConfigurationError
from shared.kafka import OutboxProducer, make_broker
from shared.outbox import Message, Outbox
from shared.postgres import Pool, create_pool
from shared.settings import load

PUBLISH_SECONDS = 15.0


async def run(choice: Choice, *, actor: str, why: str, accept_late: bool) -> tuple[Replayed, str]:
    """Replay; return what it came to, and a line on what became of the messages, empty if there are none."""
    settings = _settings()
    for client in ("aiokafka", "asyncio"):
        logging.getLogger(client).setLevel(logging.CRITICAL)  # what an absent broker means is said in one line below
    pool = await create_pool(settings.database_url, max_size=3, application_name="tallystick-replay")
    try:
        ingest = without_consumer(pool, cluster=settings.kafka_cluster, limits=settings.limits())
        replay = Replay(pool, ingest, actor, why, accept_late)
        replayed, messages = await replay.run(choice)
        return replayed, await _publish(settings, pool, replay.ingest.outbox, messages)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        raise schema_missing(error) from None
    finally:
        await pool.close()


def _settings() -> Settings:
    """Return ingest's settings: what it accepts. A Kafka is welcome, but not needed."""
    os.environ["DATABASE_URL"] = servers.database_url()
    try:
        os.environ["KAFKA_BOOTSTRAP_SERVERS"] = servers.kafka_bootstrap_servers()
    except ConfigurationError:
        os.environ["KAFKA_BOOTSTRAP_SERVERS"] = ""
    return load(Settings)


async def _publish(settings: Settings, pool: Pool, outbox: Outbox, messages: Sequence[Message]) -> str:
    """Publish what was enqueued if Kafka answers; otherwise it stays in the outbox, which the workers empty."""
    if not messages:
        return ""
    said = plural(len(messages), "message")
    try:
        async with asyncio.timeout(PUBLISH_SECONDS):
            await _publish_now(settings, pool, outbox, messages)
    except Exception as error:  # whatever it is: they are committed, and the workers publish them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return (
            f"{said} of usage.recorded could not be published from here ({reason[:120]}): running ingest workers publish "
            f"{'it' if len(messages) == 1 else 'them'} about {LEFTOVER_SECONDS:.0f} s after this"
        )
    return f"published {said} of usage.recorded: summaries and bills follow in seconds"


async def _publish_now(settings: Settings, pool: Pool, outbox: Outbox, messages: Sequence[Message]) -> None:
    if not settings.kafka_bootstrap_servers:
        raise ConfigurationError("there is no Kafka here")
    broker = make_broker(settings, client_id="tallystick-replay")
    try:
        await broker.start()
        await outbox.publish(pool, OutboxProducer(broker), messages)
    finally:
        await broker.stop()
