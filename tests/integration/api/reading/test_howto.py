"""What the page about reading over HTTP tells one to type works as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from deploy.local import ports
from shared.postgres import Pool
from tests.integration.api.facts import Facts
from tests.integration.api.reading.test_invoices import make_billed

PAGE: Final = Path(__file__).parents[4] / "docs" / "how-to" / "read-usage-over-http.md"


async def test_every_command_of_the_page_works(app: FastAPI, facts: Facts, database_pool: Pool, tmp_path: Path) -> None:
    ada, port = await make_billed(facts, database_pool), ports.choose()
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    script = "set -eu\n" + "".join(blocks)
    assert script.count("curl ") > 20
    script = script.replace("http://127.0.0.1:8084", f"http://127.0.0.1:{port}").replace("INV-2026-000001", ada.number)
    script = script.replace("--max-time 2", "--max-time 1")
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=tmp_path, env={**os.environ, "KEY": ada.customer.key},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    await server.shutdown()
    assert process.returncode == 0, said.decode()[-2_000:]
    assert b"event: counters" in said
    assert (tmp_path / f"{ada.number}.pdf").exists()
