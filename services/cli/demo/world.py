"""Whom the traffic is sent for: read from the database, so that ids, models and keys are those of the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from uuid import UUID

from services.cli.demo.events import Model, Subscriber
from services.cli.demo.traffic import World
from shared.errors import ConfigurationError
from shared.postgres import Connection, connect
from shared.sql import Queries

QUERIES = Queries.load("services.cli.demo")

LATECOMERS = 4
STRANGERS = 6
_SCALES = (1.0, 0.6, 1.6, 0.8, 1.2, 2.0)


async def read_world(database_url: str) -> World:
    """Return the subscriptions and models that traffic can be sent for. Raises `ConfigurationError` if there are none."""
    connection = await connect(database_url, application_name="tallystick-traffic")
    try:
        subscribers = [Subscriber(**row) for row in await connection.fetch(QUERIES["subscribers"])]
        models = [Model(**row) for row in await connection.fetch(QUERIES["models"])]
    finally:
        await connection.close()
    if not subscribers or not models:
        raise ConfigurationError(
            "the database has no subscriptions and models to send traffic for: run 'tallystick seed --test-data'"
        )
    return World(
        subscribers, [replace(model, scale=scale) for model, scale in zip(models, cycle(_SCALES), strict=False)]
    )


def with_newcomers(world: World, run: str) -> World:
    """Add subscriptions that the database does not know: some that will sign up midway, some that never do."""
    rng = random.Random(run)
    ids = [str(UUID(int=rng.getrandbits(128), version=4)) for _ in range(LATECOMERS + STRANGERS)]
    latecomers = [Subscriber(id_, rng.choice(world.models).id) for id_ in ids[:LATECOMERS]]
    return World(world.subscribers, world.models, latecomers, [Subscriber(id_) for id_ in ids[LATECOMERS:]])


async def sign_up(connection: Connection, latecomers: Sequence[Subscriber]) -> None:
    """Let the latecomers become known, as an administrator's or a shop's INSERT would."""
    async with connection.transaction():
        for latecomer in latecomers:
            username = f"latecomer-{latecomer.subscription_id[:8]}"
            await connection.execute(QUERIES["sign_up_user"], username)
            await connection.execute(
                QUERIES["sign_up_subscription"], latecomer.subscription_id, username, latecomer.model
            )
