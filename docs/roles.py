"""What docs/reference/roles.md says, from the catalogue of a migrated database: `make docs` writes it.

tests/integration/test_roles.py compares the committed page with what this writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.postgres import Connection

PAGE: Final = Path(__file__).parent / "reference" / "roles.md"
ROLES: Final = {
    "tallystick_ingest": "stores usage events, and nothing else.",
    "tallystick_aggregator": "sums usage up, counts it against quotas, publishes statuses.",
    "tallystick_billing": "rates usage, settles it against credits, issues invoices. Credits move through functions alone.",
    "tallystick_api": "recognises credentials, keeps accounts and reference data; takes the role of a service for one transaction.",
    "tallystick_operator": "what administrators do over HTTP; the API takes it for the transaction of such a request, and for no other.",
    "tallystick_readonly": "for dashboards and `tallystick reconcile`: reads everything but secrets, of all tenants.",
}
_PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_INTRODUCTION: Final = """\
<!-- Written by `make docs` from the catalogue of a migrated database: change deploy/migrations. -->
# Database roles

Every service works with the rights of a role of its own, whoever it logs in as: `TALLYSTICK_DATABASE_ROLE` in
[settings](settings.md); [how to secure Postgres and Kafka](../how-to/secure-postgres-and-kafka.md) says how to set it up.
Who runs the migrations owns everything and needs none of these. `tallystick_tenant` is not a service's: it is what row-level
security lets a tenant see.

The rights are data: the tables `role_rights` and `secret_columns`, from which `apply_role_rights()` grants them after every migration.
A migration that makes a table for a service inserts the service's rights to it.

- Nobody updates, deletes or truncates `usage_logs`, the ledger (`credit_transactions`, `credit_settlements`), `audit_logs` or the
  lines of invoices. Billing updates and deletes *drafts* of invoices; of an issued one triggers fix the content (TS003).
- `audit_logs` is written by triggers that run as the owner; no service can write, or forge, an entry. `tallystick_operator` adds entries
  in the name that its transaction has.
- Partitions of `usage_logs` are reached through `usage_logs` only.
- The functions named here run as their owner with a fixed `search_path`, and nobody else may call them.
- Rows are not filtered for these roles (policy `service_roles`): they work for all tenants.
"""

_RIGHTS: Final = """
SELECT c.relname::text AS relation, privilege,
       CASE WHEN NOT has_table_privilege($1, c.oid, privilege) THEN ARRAY(
           SELECT attname::text FROM pg_attribute
           WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND has_column_privilege($1, c.oid, attnum, privilege)
           ORDER BY attnum) END AS columns
FROM pg_class c CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) WITH ORDINALITY AS p (privilege, place)
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
  AND CASE WHEN privilege IN ('DELETE', 'TRUNCATE') THEN has_table_privilege($1, c.oid, privilege)
           ELSE has_any_column_privilege($1, c.oid, privilege) END
ORDER BY c.relname, place
"""
_FUNCTIONS: Final = """
SELECT DISTINCT proname::text AS name FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND prosecdef AND has_function_privilege($1, oid, 'EXECUTE')
ORDER BY 1
"""


async def roles_page(connection: Connection) -> str:
    """Return the page, from the rights that roles have in this database."""
    lines = [_INTRODUCTION]
    for role, purpose in ROLES.items():
        lines += [f"## `{role}`", "", purpose[0].upper() + purpose[1:], ""]
        lines += await (_secrets(connection) if role == "tallystick_readonly" else _rights(connection, role))
        lines.append("")
    return "\n".join(lines)


async def _rights(connection: Connection, role: str) -> list[str]:
    relations: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(_RIGHTS, role):
        relations.setdefault(row["relation"], {})[row["privilege"]] = _cell(row["columns"])
    functions = ", ".join(f"`{row['name']}`" for row in await connection.fetch(_FUNCTIONS, role))
    return [
        f"| relation | {' | '.join(map(str.lower, _PRIVILEGES))} |",
        f"|---|{'---|' * len(_PRIVILEGES)}",
        *(f"| `{name}` | {' | '.join(had.get(p, '') for p in _PRIVILEGES)} |" for name, had in relations.items()),
        "",
        f"Functions: {functions}.",
    ]


async def _secrets(connection: Connection) -> list[str]:
    rows = await connection.fetch("SELECT relation, columns FROM secret_columns ORDER BY relation")
    return [
        "It may SELECT from every table and view, but for:",
        "",
        "| table | hidden |",
        "|---|---|",
        *(f"| `{row['relation']}` | {_cell(row['columns'])} |" for row in rows),
    ]


def _cell(columns: list[str] | None) -> str:
    return "all" if columns is None else ", ".join(f"`{name}`" for name in columns)
