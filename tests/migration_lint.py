"""What Squawk finds in migrations that would stop those who work meanwhile, but for exceptions that are on record with a reason."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
RECORD: Final = ROOT / "deploy" / "migrations" / "squawk.toml"


def problems(directory: Path, record: Path = RECORD) -> list[str]:
    """Return one line for each finding without an exception, and for each exception without a finding."""
    rules = tomllib.loads(record.read_text(encoding="utf-8"))
    excepted = {
        (file, rule) for entry in rules["exception"] for file, found in entry["files"].items() for rule in found
    }
    found = _findings(directory, rules["not_asked"])
    return [
        *(
            f"{file}, line {line}: {what}"
            for (file, rule), (line, what) in found.items()
            if (file, rule) not in excepted
        ),
        *(f"{record.name}: {file} has no {rule} any more" for file, rule in sorted(excepted - found.keys())),
    ]


def reasons(record: Path = RECORD) -> list[str]:
    """Return why each exception is one."""
    rules = tomllib.loads(record.read_text(encoding="utf-8"))
    return [*rules["not_asked"].values(), *(entry["why"] for entry in rules["exception"])]


def _findings(directory: Path, not_asked: Mapping[str, str]) -> dict[tuple[str, str], tuple[int, str]]:
    """Return the first line and the words of each rule that a file breaks."""
    files = sorted(map(str, directory.glob("*.sql")))
    squawk = Path(sys.executable).with_name("squawk")
    options = ["--pg-version=15", "--assume-in-transaction", f"--exclude={','.join(not_asked)}", "--reporter=json"]
    done = subprocess.run([squawk, *options, *files], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, f"squawk ended with {done.returncode}: {done.stderr}"
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for finding in json.loads(done.stdout or "[]"):
        what = f"{finding['rule_name']}: {finding['message']} {finding['help'] or ''}".strip()
        found.setdefault((Path(finding["file"]).name, finding["rule_name"]), (finding["line"] + 1, what))
    return found
