"""What docs/reference/tables.md and its pictures say of tables and references, from the catalogue of a migrated database.

`make docs` writes them. tests/integration/test_docs_tables.py compares what is committed with what this says.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from shared.postgres import Connection

REFERENCE: Final = Path(__file__).parent / "reference"
AREAS: Final[dict[str, list[str]]] = {
    area: names.split()
    for area, names in {
        "Accounts": """
            users sessions failed_logins user_provider_keys user_activity admin_notes bridge_tokens
            sync_logs
        """,
        "Plans and prices": "models model_prices power_level_configs plans plan_versions coupons price_book",
        "Subscriptions": """
            subscriptions subscription_terms subscription_changes coupon_redemptions api_keys api_key_days
            reservations reservation_holds reservation_credits credit_holds
        """,
        "Usage": """
            usage_logs usage_ids usage_batches ingest_positions ingest_outbox quarantined_events
            held_events usage_summaries usage_totals usage_hours usage_hours_kept aggregator_positions aggregator_inbox aggregator_outbox
            provider_observations provider_health
        """,
        "Rating and credits": """
            rating_runs rated_usage billing_positions billing_inbox billing_outbox reprices user_credits
            credit_transactions credit_settlements credit_grants credit_grant_postings credit_charges
            credit_packages credit_tiers credit_rates topup_requests
        """,
        "Invoices": """
            invoices invoice_lines invoice_numbers legal_entities billing_profiles credit_notes
            credit_note_lines credit_set_offs credits credit_applications
        """,
        "Payments": """
            payments payment_allocations payment_refunds payment_disputes payment_events payment_methods
            bank_statement_lines dunning_attempts billing_history
        """,
        "Alerts and webhooks": """
            billing_alerts alert_settings webhook_endpoints webhook_messages webhook_deliveries
            webhook_attempts
        """,
    }.items()
}
"""What belongs together, each table once; those that no area names are listed, without a picture, as the rest."""
REST: Final = "The rest"
_INTRODUCTION: Final = """\
<!-- Written by `make docs` from the catalogue of a migrated database: change deploy/migrations. -->
# Tables

Every table with what it is for, and pictures of what refers to what. [The schema](schema.md) says where each comes from and why it is as it is;
every column that does not explain itself has a comment (`\\d+` in psql).

A picture shows the columns of keys: those of the primary key are underlined, the number of further columns is below. An arrow is a foreign key
and leads to what is referred to; a dashed one refers by value, without a foreign key ([why](../decisions/0003-no-foreign-keys-on-the-log.md)).
Grey tables belong to another area; tables that refer to none and that none refers to are left out of the picture.
"""

_STRANGER: Final = 'shape=box, style=filled, color="#bdbdbd", fillcolor="#eeeeee", fontcolor="#616161"'

_TABLES: Final = """
SELECT c.relname::text AS name, obj_description(c.oid) AS purpose,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY array_position(i.indkey::int[], a.attnum::int)) AS key
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relname !~ '^(usage_ids_|usage_logs_)'
ORDER BY c.relname
"""
_REFERENCES: Final = """
SELECT c.relname::text AS table, f.relname::text AS target,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum = ANY (k.conkey) ORDER BY attnum) AS columns
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND c.relnamespace = 'public'::regnamespace
ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class Table:
    """A table with the names of its columns, those of its primary key, and its comment."""

    name: str
    purpose: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """What columns of a table refer to: by a foreign key, or by value."""

    table: str
    columns: tuple[str, ...]
    target: str
    enforced: bool = True


async def read_schema(connection: Connection) -> tuple[dict[str, Table], list[Reference]]:
    """Return the tables by name, and their references, of a migrated database."""
    tables = {
        row["name"]: Table(row["name"], row["purpose"] or "", tuple(row["columns"]), tuple(row["key"]))
        for row in await connection.fetch(_TABLES)
    }
    keys = [
        Reference(row["table"], tuple(row["columns"]), row["target"]) for row in await connection.fetch(_REFERENCES)
    ]
    return tables, keys + list(_by_value(tables.values(), keys))


def _by_value(tables: Iterable[Table], keys: Sequence[Reference]) -> Iterator[Reference]:
    """Yield what `user_id` and the like refer to without a foreign key."""
    known = {(key.table, column) for key in keys for column in key.columns}
    named = {f"{table.name.removesuffix('s')}_id": table.name for table in tables if table.name.endswith("s")}
    named["batch_id"] = "usage_batches"
    del named["session_id"]  # in usage that is a session of the gateway
    for table in tables:
        for column in table.columns:
            if named.get(column, table.name) != table.name and (table.name, column) not in known:
                yield Reference(table.name, (column,), named[column], enforced=False)


def page(tables: dict[str, Table]) -> str:
    """Return the page, which shows the pictures that `pictures` draws."""
    lines = [_INTRODUCTION]
    drawn = {name for names in AREAS.values() for name in names}
    rest = [name for name in tables if name not in drawn]
    for area, names in {**AREAS, REST: rest}.items():
        lines += [f"## {area}", ""]
        if area != REST:
            lines += [f"[![{area}: tables and what they refer to]({_file(area)})]({_file(area)})", ""]
        lines += ["| table | what it is |", "|---|---|"]
        lines += [f"| `{name}` | {tables[name].purpose.replace('|', chr(92) + '|')} |" for name in names]
        lines.append("")
    return "\n".join(lines)


def _file(area: str) -> str:
    return f"tables/{area.lower().replace(' ', '-')}.svg"


def pictures(tables: dict[str, Table], references: Sequence[Reference]) -> dict[str, str]:
    """Return the picture of each area as SVG, by its path below docs/reference."""
    return {_file(area): _drawn(graph(names, tables, references)) for area, names in AREAS.items()}


def graph(names: Sequence[str], tables: dict[str, Table], references: Sequence[Reference]) -> str:
    """Return an area in Graphviz' language."""
    own = [reference for reference in references if reference.table in names]
    touched = {name for reference in own for name in (reference.table, reference.target)}
    strangers = sorted(touched - set(names))
    lines = [
        "digraph {",
        "graph [rankdir=LR, nodesep=0.25, ranksep=0.9, bgcolor=white, pad=0.2];",
        'node [shape=plain, fontname="Courier", fontsize=11];',
        'edge [color="#5c6bc0", arrowsize=0.7];',
    ]
    lines += [
        f"{name} [label=<{_box(tables[name], [r for r in own if r.table == name])}>];"
        for name in names
        if name in touched
    ]
    lines += [f"{name} [{_STRANGER}];" for name in strangers]
    for reference in own:
        style = "solid" if reference.enforced else "dashed"
        lines.append(f"{reference.table}:{_leaving(reference)}:e -> {reference.target} [style={style}];")
    return "\n".join([*lines, "}"])


def _leaving(reference: Reference) -> str:
    """Return the column that the arrow leaves: of several, the one that is named after the target."""
    named = f"{reference.target.removesuffix('s')}_id"
    return named if named in reference.columns else reference.columns[-1]


def _box(table: Table, references: Sequence[Reference]) -> str:
    referring = {column for reference in references for column in reference.columns}
    shown = [column for column in table.columns if column in referring or column in table.key]
    rows = [f'<TR><TD BGCOLOR="#3f51b5"><FONT COLOR="white"><B>{escape(table.name)}</B></FONT></TD></TR>']
    for column in shown:
        name = f"<U>{escape(column)}</U>" if column in table.key else escape(column)
        rows.append(f'<TR><TD PORT="{column}" ALIGN="LEFT">{name}</TD></TR>')
    if further := len(table.columns) - len(shown):
        rows.append(f'<TR><TD ALIGN="LEFT"><FONT COLOR="#757575">and {further} more</FONT></TD></TR>')
    return f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="4" COLOR="#9fa8da" BGCOLOR="white">{"".join(rows)}</TABLE>'


def _drawn(graph: str) -> str:
    """Lay the graph out: graphviz-pure draws the same on every machine, whatever fonts it has.

    Letters of one width, as those of a reader's font are then as wide as those that were measured.
    """
    drawn = subprocess.run(
        [str(Path(sys.executable).with_name("graphviz-pure")), "-Tsvg"],
        input=graph,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return drawn.stdout.replace("Courier,monospace", "ui-monospace,Menlo,monospace")


async def files(connection: Connection) -> dict[Path, str]:
    """Return the page and its pictures, each with its path, as the catalogue of this database has it."""
    tables, references = await read_schema(connection)
    drawn = {REFERENCE / path: picture for path, picture in pictures(tables, references).items()}
    return {REFERENCE / "tables.md": page(tables), **drawn}
