"""A module that says it is pure is held to it by the import contracts."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PURE_CONTRACT: Final = "What decides is pure"


def test_every_module_that_calls_itself_pure_is_in_the_contract() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [contract] = [c for c in configuration["contracts"] if c["name"].startswith(PURE_CONTRACT)]
    says_so = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for folder in (
            "shared",
            "services/ingest",
            "services/aggregator",
            "services/billing",
            "services/api",
            "services/accounts",
            "tallystick",
        )
        for file in (ROOT / folder).rglob("*.py")
        if "(pure)" in (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n", maxsplit=1)[0]
    }

    assert says_so - set(contract["source_modules"]) == set()
