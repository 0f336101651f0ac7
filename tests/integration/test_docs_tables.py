"""The page of tables and its pictures are what the catalogue of a migrated database says."""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest

from docs import entities

NEW_TABLE: Final = (
    "CREATE TABLE refund_votes (id uuid PRIMARY KEY, refund uuid REFERENCES payment_refunds (id), user_id uuid)"
)


async def test_the_page_and_its_pictures_are_current(connection: asyncpg.Connection) -> None:
    files = await entities.files(connection)
    assert {path.name for path in files if path.suffix == ".svg"} == {
        path.name for path in (entities.REFERENCE / "tables").iterdir()
    }
    assert [path.name for path, text in files.items() if path.read_text(encoding="utf-8") != text] == [], (
        "run `make docs`"
    )


async def test_a_table_is_drawn_with_its_keys_and_what_it_refers_to(connection: asyncpg.Connection) -> None:
    await connection.execute(NEW_TABLE)
    tables, references = await entities.read_schema(connection)
    drawn = entities.graph(["refund_votes", "payment_refunds"], tables, references)
    assert "refund_votes:refund:e -> payment_refunds [style=solid];" in drawn
    assert "refund_votes:user_id:e -> users [style=dashed];" in drawn
    assert "<U>id</U>" in drawn
    assert "| `refund_votes` |" in entities.page(tables).split(f"## {entities.REST}")[1]


@pytest.mark.parametrize("area", entities.AREAS)
async def test_an_area_names_tables_that_exist(area: str, connection: asyncpg.Connection) -> None:
    tables, _ = await entities.read_schema(connection)
    assert [name for name in entities.AREAS[area] if name not in tables] == []


def test_a_table_belongs_to_one_area() -> None:
    named = [name for names in entities.AREAS.values() for name in names]
    assert sorted(named) == sorted(set(named))
