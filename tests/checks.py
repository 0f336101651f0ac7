"""Style, types and import contracts, as tests: `.ci/run` and `make check` run them after `make test` (whose pattern of names leaves them out)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
