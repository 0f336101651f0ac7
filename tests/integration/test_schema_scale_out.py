"""The schema is ready to be distributed by subscription_id: scaling out must be a command, not a rewrite."""

from __future__ import annotations

from deploy.scale_out import DISTRIBUTED as BY_THE_COMMAND
from deploy.scale_out import KEY, READY
from shared.postgres import Connection

DISTRIBUTED = list(READY)
WRITTEN_BY_COPY = ["usage_logs", "rated_usage"]
DROPPED_BY_SCALING_OUT = {
    *(("rated_usage", name) for name in ("protect_rated_usage", "keep_rated_usage", "keep_all_rated_usage")),
    *(("usage_summaries", f"total_{what}_summaries") for what in ("new", "changed", "deleted", "truncated")),
}
"""A net below the code; nothing depends on it."""


async def test_every_unique_index_contains_the_distribution_key(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT t AS relation, i.indexrelid::regclass::text AS index,
                  ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = i.indexrelid) AS columns
           FROM unnest($1::text[]) t JOIN pg_index i ON i.indrelid = t::regclass AND (i.indisunique OR i.indisexclusion)""",
        DISTRIBUTED,
    )
    assert {row["relation"] for row in rows} == set(DISTRIBUTED), "each has a primary key"
    assert [row["index"] for row in rows if "subscription_id" not in row["columns"]] == []


async def test_identities_are_distributed_by_what_they_are_unique_by(connection: Connection) -> None:
    """That an id is nobody else's cannot be known by subscription."""
    rows = await connection.fetch(
        """SELECT ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = i.indexrelid) AS columns
           FROM pg_partition_tree('usage_ids') t JOIN pg_index i ON i.indrelid = t.relid AND i.indisunique"""
    )
    assert [row["columns"] for row in rows] == [["id"]]


async def test_the_distribution_key_has_one_type_and_is_never_null(connection: Connection) -> None:
    rows = await connection.fetch(
        "SELECT atttypid::regtype::text, attnotnull FROM pg_attribute WHERE attrelid = ANY($1::text[]::regclass[]) AND attname = 'subscription_id'",
        DISTRIBUTED,
    )
    assert [tuple(row) for row in rows] == [("uuid", True)] * len(DISTRIBUTED)


async def test_no_foreign_key_leaves_or_reaches_a_distributed_table(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT conname FROM pg_constraint WHERE contype = 'f'
           AND (conrelid = ANY($1::text[]::regclass[]) OR confrelid = ANY($1::text[]::regclass[]))""",
        DISTRIBUTED,
    )
    assert rows == []


async def test_nothing_depends_on_a_trigger_of_a_distributed_table(connection: Connection) -> None:
    rows = await connection.fetch(
        "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger WHERE tgrelid = ANY($1::text[]::regclass[]) AND NOT tgisinternal",
        DISTRIBUTED,
    )
    assert {tuple(row) for row in rows} <= DROPPED_BY_SCALING_OUT


async def test_what_is_written_by_copy_has_no_row_security_and_nothing_has_a_sequence(connection: Connection) -> None:
    assert (
        await connection.fetch(
            "SELECT relname FROM pg_class WHERE oid = ANY($1::text[]::regclass[]) AND (relrowsecurity OR relforcerowsecurity)",
            WRITTEN_BY_COPY,
        )
        == []
    )
    assert (
        await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
        )
        == []
    )


async def test_what_the_command_distributes_may_be_distributed_and_is_read_by_views_alone(
    connection: Connection,
) -> None:
    """Materialized views would have to be filled again; the command knows plain ones."""
    assert set(BY_THE_COMMAND) <= set(READY)
    assert KEY == "subscription_id"
    rows = await connection.fetch(
        """SELECT DISTINCT c.relname, c.relkind FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
           WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = ANY($1::text[]::regclass[])""",
        list(BY_THE_COMMAND),
    )
    assert {row["relkind"] for row in rows} == {b"v"}
