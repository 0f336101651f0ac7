"""Scaling out over Citus: the log is distributed over several servers, and everything else stays on the coordinator.

What grows with every request is the log. Summaries and rated usage grow with hours and subscriptions, ledger and invoices with customers; they
stay where transactions are cheap. The rules that let a table be distributed are checked on plain Postgres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from deploy.migrate import migrator
from shared.errors import ConfigurationError, TallystickError
from shared.sql import Queries

_SQL: Final = Queries.load("deploy", "scale_out.sql")
KEY: Final = "subscription_id"
DISTRIBUTED: Final = ("usage_logs",)
"""What the command distributes, by the key."""
READY: Final = ("usage_logs", "usage_summaries", "usage_hours", "rated_usage")
"""What the schema allows to be distributed: every unique index has the key, no foreign key, no sequence."""
VERSION: Final = "13.2"
"""Of Citus, with which `make test-scale-out` was run."""

Say = Callable[[str], None]


class ScaleOutError(TallystickError):
    """The database cannot be distributed as it is. Says what to do first."""


@dataclass(frozen=True, slots=True)
class Node:
    """A server that holds shards."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Node:
        """Read `host:port`, or `host`. Raises `ConfigurationError`."""
        host, _, port = text.rpartition(":") if ":" in text else (text, "", "5432")
        if not host or not port.isdigit():
            raise ConfigurationError(f"'{text}' is no node: give host or host:port")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


async def scale_out(
    url: str, coordinator: Node, nodes: Sequence[Node], *, shards: int, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """Add the nodes and distribute what is not distributed yet; return how the tables lie. Done twice, it changes nothing.

    `coordinator` is how the nodes reach this server. The workers must be stopped: tables are locked while their rows are moved.
    Raises `ScaleOutError`, `ConfigurationError`, `ServiceUnavailable`.
    """
    async with migrator(url) as connection:
        await _check(connection)
        await connection.execute("CREATE EXTENSION IF NOT EXISTS citus")
        await connection.execute("SELECT citus_set_coordinator_host($1, $2)", coordinator.host, coordinator.port)
        known = {Node(row["host"], row["port"]) for row in await connection.fetch(_SQL["nodes"])}
        for node in (node for node in nodes if node not in known):
            say(f"adding {node}")
            try:
                await connection.execute("SELECT citus_add_node($1, $2)", node.host, node.port)
            except asyncpg.PostgresError as error:
                raise ScaleOutError(
                    f"{node} cannot be added ({error}): CREATE EXTENSION citus there, and let the coordinator log in "
                    "(pg_hba.conf, or pg_dist_authinfo and citus.node_conninfo)"
                ) from error
        if not known and not nodes:
            raise ScaleOutError("no server is there to hold shards: name them with --node host:port")
        for table in DISTRIBUTED:
            if not await connection.fetchval(_SQL["is_distributed"], table):
                say(f"distributing {table} by {KEY} over {shards} shards, with its rows")
                await _distribute(connection, table, shards)
        return {table: [dict(row) for row in await connection.fetch(_SQL["shards"], table)] for table in DISTRIBUTED}


async def _check(connection: asyncpg.Connection) -> None:
    citus = await connection.fetchrow(_SQL["citus"])
    if citus["available"] is None:
        raise ScaleOutError(
            f"the server has no extension citus: install Citus {VERSION} for its version of PostgreSQL on every server, see docs/how-to/scale.md"
        )
    if not citus["loaded"]:
        raise ScaleOutError(
            "citus is installed but not loaded: put it first in shared_preload_libraries of every server, and restart them"
        )


async def _distribute(connection: asyncpg.Connection, table: str, shards: int) -> None:
    """Distribute one table in one transaction. Views that read it are made anew on the coordinator alone, which is where they are asked."""
    views = await connection.fetch(_SQL["views"], table)
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '10s'")
        for view in reversed(views):
            await connection.execute(f"DROP VIEW {view['name']}")
        await connection.execute(
            "SELECT create_distributed_table($1::text::regclass, $2, shard_count => $3, colocate_with => 'none')",
            table,
            KEY,
            shards,
        )
        await connection.execute("SET LOCAL citus.enable_ddl_propagation = off")
        for view in views:
            options = f" WITH ({view['options']})" if view["options"] else ""
            await connection.execute(f"CREATE VIEW {view['name']}{options} AS {view['definition']}")
            if view["comment"]:
                comment = view["comment"].replace("'", "''")
                await connection.execute(f"COMMENT ON VIEW {view['name']} IS '{comment}'")
    await connection.execute("SELECT apply_role_rights()")
