"""docs/how-to/administer-over-http.md, typed into a shell as it stands, against a running API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.pipeline.test_api_fuzzing import RunningApi, api

__all__ = ["api"]  # the fixture

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "administer-over-http.md"
LEFT_OUT: Final = ("psql ", "API=", "KEY=", "tallystick ")
"""What the test has done, or does, in another way."""
COSTS: Final = {
    "gpt-9": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05}
}


def commands() -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith(LEFT_OUT)]


def test_every_command_of_the_page_does_what_it_says(api: RunningApi, tmp_path: Path) -> None:
    (tmp_path / "model_prices_and_context_window.json").write_text(json.dumps(COSTS))
    typed = commands()
    assert len(typed) > 30
    script = "\n".join(["set -e -o pipefail", *(f"{line}\necho" for line in typed)])
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "API": f"{api.url}/api/v1",
        "KEY": api.keys["admin"],
    }
    done = subprocess.run(
        ["/bin/bash", "-x", "-c", script],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    trail = [
        entry for answer in said if isinstance(answer, dict) for entry in answer.get("items", []) if "before" in entry
    ]
    assert {"subscription.created", "subscription.suspended"} <= {entry["action"] for entry in trail}
    balances = [answer["balance"] for answer in said if isinstance(answer, dict) and "balance" in answer]
    assert balances == ["100", "80", "75.5"]
