"""What the how-to pages tell an operator to run is run here, as it stands on the page, against a real database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from services.billing.reconciliation import reconcile
from shared.consumer import Slice
from shared.contracts import USAGE_EVENTS
from shared.positions import Positions
from shared.postgres import Connection, Pool
from tests.documentation import blocks_of
from tests.integration.billing_facts import CLUSTER, ingest, make_customer, usage

PAGES: Final = Path(__file__).parents[2] / "docs" / "how-to"
ABOUT_ONE_SERVICE: Final = {"batches = aggregator inbox", "batches = billing inbox", "log = hours", "log = rated"}
"""Statements that are not about ingest: these tests let it work alone."""


def code(page: str, language: str, number: int = 0) -> str:
    """Return one of a page's code blocks in a language."""
    blocks = [b.body for b in blocks_of((PAGES / page).read_text(encoding="utf-8")) if b.info == language]
    return blocks[number]


async def psql(connection: Connection, script: str, **variables: str | int) -> list[str]:
    """Run a script as `psql -v name=value` would; return what psql says of each statement."""

    def value(match: re.Match[str]) -> str:
        text = str(variables[match["quoted"] or match["plain"]])
        return "'" + text.replace("'", "''") + "'" if match["quoted"] else text

    script = re.sub(r"^--.*$", "", script, flags=re.MULTILINE)
    filled = re.sub(r"(?<!:):(?:'(?P<quoted>\w+)'|(?P<plain>[a-z_]\w*))", value, script)
    return [await connection.execute(statement) for statement in filled.split(";") if statement.strip()]


async def differing(connection: Connection) -> list[str]:
    """Return the names of ingest's checks that do not hold."""
    checks = await reconcile(connection)
    return [c.name for c in checks if not c.holds and c.name.partition(":")[0] not in ABOUT_ONE_SERVICE]


async def test_a_recreated_topic_begins_a_new_epoch(database_pool: Pool) -> None:
    async with database_pool.acquire() as connection:
        customer = await make_customer(connection)
        await ingest(connection, [usage(customer.subscription_id), usage(customer.subscription_id)])
        said = await psql(connection, code("topic-recreated.md", "sql"), cluster=CLUSTER, topic=USAGE_EVENTS)
        position = await Positions("ingest_positions", cluster=CLUSTER).read(connection, USAGE_EVENTS, 0)
        assert said == ["INSERT 0 1"]
        assert position is not None
        assert (position.epoch, position.next_offset) == (1, 0)
        assert await differing(connection) == []


async def test_readers_of_a_recreated_topic_begin_new_epochs(database_pool: Pool) -> None:
    async with database_pool.acquire() as connection:
        await connection.execute("INSERT INTO aggregator_positions VALUES ('main', 'usage.recorded', 3, 0, 0, 9, 9)")
        await connection.execute("INSERT INTO billing_positions VALUES ('main', 'usage.recorded', 3, 0, 0, 9, 9)")
        said = await psql(connection, code("topic-recreated.md", "sql", 1), cluster="main", topic="usage.recorded")
        assert said == ["INSERT 0 1", "INSERT 0 1"]
        for table in ("aggregator_positions", "billing_positions"):
            position = await Positions(table, cluster="main").read(connection, "usage.recorded", 3)
            assert position is not None
            assert (position.epoch, position.next_offset) == (1, 0)


async def test_an_accepted_loss_is_counted_as_gaps(database_pool: Pool) -> None:
    script = code("retention-overrun.md", "sql")
    lost: dict[str, Any] = {"cluster": CLUSTER, "topic": USAGE_EVENTS, "partition": 0, "beginning": 262}
    async with database_pool.acquire() as connection:
        customer = await make_customer(connection)
        await ingest(connection, [usage(customer.subscription_id), usage(customer.subscription_id)])
        assert await psql(connection, script, **lost, position=1) == ["INSERT 0 0"]  # it is not there
        assert await psql(connection, script, **lost, position=2) == ["INSERT 0 1"]
        assert await psql(connection, script, **lost, position=2) == ["INSERT 0 0"]  # once is enough
        position = await Positions("ingest_positions", cluster=CLUSTER).lock(connection, USAGE_EVENTS, 0)
        assert position is not None
        assert position.next_offset == 262
        assert await connection.fetchval("SELECT gaps FROM ingest_positions") == 260
        assert await differing(connection) == []
        shown = await connection.fetch(code("retention-overrun.md", "sql", 1))
        assert [row["gaps"] for row in shown] == [260]


async def test_a_reader_goes_on_behind_an_accepted_loss(database_pool: Pool) -> None:
    script = code("retention-overrun.md", "sql", 2)
    lost: dict[str, Any] = {
        "cluster": "main",
        "topic": "usage.recorded",
        "partition": 3,
        "position": 640,
        "beginning": 900,
    }
    async with database_pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO aggregator_positions VALUES ('main', 'usage.recorded', 3, 0, 0, 640, 640)"
        )
        assert await psql(connection, script, **lost) == ["UPDATE 1"]
        assert await psql(connection, script, **lost) == ["UPDATE 0"]
        position = await Positions("aggregator_positions", cluster="main").read(connection, "usage.recorded", 3)
        assert position is not None
        assert Slice(position, []).first_offset == 900
