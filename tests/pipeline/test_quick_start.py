"""The README's first event, as it is written: every command of it in a shell, against real servers."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Final

from tests.pipeline.running import Pipeline

ROOT: Final = Path(__file__).parents[2]
SECTION: Final = re.compile(r"^## Your first event.*?(?=^## )", re.DOTALL | re.MULTILINE)
BLOCK: Final = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SCRIPT: Final = """
set -em
make() {{ [ "$*" = up ]; }}  # the servers are those of the tests
{set_up}
trap 'kill %1; wait' EXIT
answer=$({report})
for _ in $(seq 100); do
  seen=$({look})
  case "$seen" in *'"request_count":1'*'"allowed":false'*) break ;; esac
  sleep 0.1
done
echo "ANSWER $answer"
echo "SEEN $(echo "$seen" | tr -d '\\n')"
"""


async def test_the_first_event_is_in_usage_and_the_quota_that_it_used_up_refuses_the_next_request(
    pipeline: Pipeline,
) -> None:
    [section] = SECTION.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    set_up, report, look = BLOCK.findall(section)
    script = SCRIPT.format(set_up=set_up, report=report, look=look)
    activate = Path(sys.executable).with_name("activate")
    script = script.replace(". .venv/bin/activate", f". {activate}")  # the environment of the tests, wherever that is
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=ROOT, env=pipeline.environ, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    answers = dict(line.split(" ", 1) for line in said.splitlines() if line.startswith(("ANSWER ", "SEEN ")))
    assert json.loads(answers["ANSWER"])["accepted"] == 1
    usage, entitlement = re.findall(r"\{.*?\}(?=\{|$)", answers["SEEN"])
    assert json.loads(usage)["points"][0]["total_tokens"] == 812 + 164
    assert json.loads(entitlement)["allowed"] is False
    assert json.loads(entitlement)["reasons"] == ["quota_requests"]
