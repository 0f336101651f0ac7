"""Style, types and import contracts, as tests: `.ci/run` and `make check` run them after `make test` (whose pattern of names leaves them out)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.migration_lint import problems, reasons

ROOT = Path(__file__).parent.parent


def _assert_succeeds(*command: str) -> None:
    """Run a tool from the root of the checkout; what it says is the message of the failure."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"


def test_the_tests_before_this_succeeded() -> None:
    assert os.environ.get("TALLYSTICK_TESTS_EXIT_CODE", "0") == "0", "make test failed: see above"


def test_the_code_follows_the_style_rules() -> None:
    _assert_succeeds(sys.executable, "-m", "ruff", "check")


def test_the_code_is_formatted() -> None:
    _assert_succeeds(sys.executable, "-m", "ruff", "format", "--check")


def test_the_types_are_strict_and_sound() -> None:
    _assert_succeeds(sys.executable, "-m", "mypy")


def test_modules_import_only_what_their_contracts_allow() -> None:
    _assert_succeeds(str(Path(sys.executable).with_name("lint-imports")))


def test_migrations_hold_nobody_up() -> None:
    assert problems(ROOT / "deploy" / "migrations") == []
    assert all(len(why) > 20 for why in reasons())


def test_a_migration_that_would_hold_others_up_is_found(tmp_path: Path) -> None:
    """Planted: what locks a table that has rows, or takes away what the version before still reads."""
    (tmp_path / "0099_planted.sql").write_text(
        "-- migrate:up\n"
        "CREATE INDEX usage_logs_model ON usage_logs (model_id);\n"
        "ALTER TABLE users ADD CONSTRAINT short CHECK (length(email) < 200);\n"
        "ALTER TABLE users DROP COLUMN email;\n"
        "ALTER TABLE users ALTER COLUMN id TYPE text;\n"
        "ALTER TABLE users RENAME COLUMN name TO full_name;\n"
        "-- squawk-ignore ban-drop-table\n"
        "DROP TABLE activity;\n"
    )
    found = {problem.split(": ")[1] for problem in problems(tmp_path) if problem.startswith("0099_planted.sql, line")}
    assert found == {
        *("require-concurrent-index-creation", "constraint-missing-not-valid", "ban-drop-column"),
        *("changing-column-type", "renaming-column"),
    }
