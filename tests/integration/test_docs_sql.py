"""The SQL on the documentation's pages is understood by a migrated database: the sql blocks, and what is given to `psql -c`."""

from __future__ import annotations

import re
from typing import Final

import asyncpg
import pytest

from deploy.sql_script import split
from tests.documentation import PAGES, ROOT, sql_of

WITH_SQL: Final = {
    str(page.relative_to(ROOT)): text for page in PAGES if any(sql_of(text := page.read_text(encoding="utf-8")))
}
PLANNED: Final = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|WITH|TABLE)\b", re.IGNORECASE)
AN_ID: Final = "019a2f6e-0c5b-7d10-9f5e-1b8c7c3a2d41"


async def problems(page: str, connection: asyncpg.Connection) -> list[str]:
    """Return what Postgres says against the SQL of a page, of which nothing is executed."""
    found = []
    for script in sql_of(page):
        for statement in split(_filled(script)):
            try:
                async with connection.transaction():
                    if PLANNED.match(statement.text):
                        await connection.prepare(statement.text)
                    else:  # a command that cannot be prepared, such as CREATE ROLE, is parsed
                        await connection.execute(f"DO $page$ BEGIN IF false THEN {statement.text}; END IF; END $page$")
            except asyncpg.PostgresError as error:
                found.append(f"{statement.text}: {error}")
    return found


def _filled(script: str) -> str:
    """Put the values that the page gives with `psql -v` into a script, and an id where it says ID."""
    for name, value in re.findall(r"-v (\w+)=(\S+)", script):
        script = script.replace(f":'{name}'", f"'{value}'")
        script = re.sub(rf"(?<!:):{name}\b", value, script)
    return script.replace("'ID'", f"'{AN_ID}'")


@pytest.mark.parametrize("page", WITH_SQL)
async def test_postgres_understands_the_sql_of_a_page(page: str, connection: asyncpg.Connection) -> None:
    assert await problems(WITH_SQL[page], connection) == []


@pytest.mark.parametrize(
    "defect",
    [
        "```sql\nSELECT 1;\nSELECT no_such_column FROM usage_logs;\n```\n",
        "```sql\nUPDATE no_such_table SET a = 1;\n```\n",
        "```sql\nCREATE ROLE somebody LOGGING;\n```\n",
        "```sql\n-- psql -v topic=usage.events\nSELECT next_offset FROM ingest_positions WHERE topic = :'topics';\n```\n",
        '```console\n$ psql "$DATABASE_URL" -c "SELECT state FROM jobs_of_old"\n```\n',
        '```\npsql "$DATABASE_URL" -c "SELECT state FROM jobs_of_old"\n```\n',
    ],
)
async def test_a_defect_is_found(defect: str, connection: asyncpg.Connection) -> None:
    assert len(await problems(defect, connection)) == 1


def test_there_is_sql_to_ask_about() -> None:
    assert {"docs/tutorial/first-event.md", "docs/how-to/litellm.md", "docs/how-to/topic-recreated.md"} <= set(WITH_SQL)
