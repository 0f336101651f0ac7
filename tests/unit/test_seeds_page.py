"""docs/reference/seeds.md lists all of the seeds B and D, and every row of it names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final, NamedTuple

from tests.integration.test_schema_checklist import FUNCTIONS, SYSTEMS, TRIGGERS

TESTS: Final = Path(__file__).parents[1]
PAGE: Final = TESTS.parent / "docs" / "reference" / "seeds.md"
OF_OTHER_SEEDS: Final = {  # of A and C
    "check_subscription_quota", "update_usage_summary", "get_user_stats", "get_user_activity_summary", "update_users_updated_at",
    "update_models_updated_at", "update_subscriptions_updated_at", "enforce_subscription_quota",
}  # fmt: skip
ENDPOINTS: Final = [
    "POST /api/v1/credits/purchase",
    "POST /api/v1/credits/debit",
    "GET /api/v1/credits/balance",
    "GET /api/v1/credits/transactions",
    "POST /api/v1/provider-keys",
    "GET /api/v1/provider-keys",
    "DELETE /api/v1/provider-keys/{id}",
    "GET /api/v1/analytics/usage",
    "GET /api/v1/providers/health",
]


class Row(NamedTuple):
    """A row of one of the page's tables."""

    what: str
    here: str
    proof: str


def rows() -> list[Row]:
    """Return the rows of all tables, without their heads."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {number for number, row in enumerate(cells) if set(row[0]) == {"-"}}
    return [Row(*row) for number, row in enumerate(cells) if not {number, number + 1} & rules]


def named_in(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)


def test_every_row_names_a_test() -> None:
    assert [row.what for row in rows() if not named_in(row.proof)] == []


def test_every_test_that_is_named_exists() -> None:
    gone = [
        f"{file}::{test}"
        for file, test in {pair for row in rows() for cell in row for pair in named_in(cell)}
        if not any(test in _tests_in(path) for path in TESTS.rglob(file))
    ]
    assert sorted(gone) == []


def _tests_in(path: Path) -> set[str]:
    """Return the names of the functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_no_row_is_proved_by_the_catalogue() -> None:
    """That something exists is no behaviour."""
    assert [row.what for row in rows() if "test_schema_checklist" in row.proof] == []


def test_every_object_of_both_seeds_has_a_row() -> None:
    tables = {name for seed in "BD" for name in SYSTEMS[seed].split()}
    objects = tables | set(FUNCTIONS) | {trigger for _, trigger in TRIGGERS}
    listed = {row.what for row in rows()}
    assert sorted(name for name in objects - OF_OTHER_SEEDS if f"`{name}`" not in listed) == []
    assert [endpoint for endpoint in ENDPOINTS if f"`{endpoint}`" not in listed] == []


def test_each_thing_has_one_row() -> None:
    listed = [row.what for row in rows()]
    assert len(listed) > 80
    assert len(set(listed)) == len(listed)
