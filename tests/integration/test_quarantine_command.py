"""The commands of an operator, run as a person runs them: without Kafka, and with mistakes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest_asyncio

from services.ingest.acceptance import Limits
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.aggregator_facts import make_subscription
from tests.integration.ingest_facts import Ingest
from tests.unit.ingest.events import SUBSCRIPTION, structured

TALLYSTICK = "import sys; from services.cli.main import main; main()"


class Tallystick:
    """The command on this test's database; no Kafka answers."""

    def __init__(self, database: str, directory: Path) -> None:
        self.environ = {
            **os.environ,
            "DATABASE_URL": database,
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "TALLYSTICK_LOCAL_DIR": str(directory),
            "PYTHONPATH": str(Path.cwd()),
        }

    async def __call__(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TALLYSTICK, *arguments),
            env=self.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


@pytest_asyncio.fixture
async def tallystick(database: str, database_pool: Pool, tmp_path: Path) -> Tallystick:
    """Three refused records, one of them acceptable by the limits of the command, and a held event."""
    await make_subscription(database_pool, id=UUID(SUBSCRIPTION))
    ingest = Ingest(database_pool, limits=Limits(metadata_keys=1))
    now = datetime.now(UTC).isoformat()  # the command has no other clock
    wide, stranger = structured(time=now, data={"metadata": {"a": 1, "b": 2}}), structured(subject=str(uuid7()))
    await ingest.apply_values(wide, b"{", b"\x1b[31m\xff", stranger)
    return Tallystick(database, tmp_path)


async def records(tallystick: Tallystick, reason: str) -> list[dict[str, str]]:
    _, said, _ = await tallystick("quarantine", "list", "--reason", reason, "--json")
    return json.loads(said)["records"]  # type: ignore[no-any-return]


async def test_of_a_conflict_both_versions_are_shown(tallystick: Tallystick, database_pool: Pool) -> None:
    ingest = Ingest(database_pool)
    await ingest.apply_values(structured(id="twice", data={"end_user": "\x1b[31m"}))
    await ingest.apply_values(structured(id="twice", time="2026-11-01T00:00:00Z", data={"request_tokens": 99}))
    (conflict,) = await records(tallystick, "conflict")

    code, said, _ = await tallystick("quarantine", "show", conflict["id"])
    assert (code, "\x1b" in said) == (0, False)
    assert "stored created_at        2026-11-21 11:59:30.123456+00:00" in said
    assert "stored request_tokens    10" in said
    assert '"request_tokens": 99' in said
    _, said, _ = await tallystick("quarantine", "show", conflict["id"], "--json")
    assert json.loads(said)["stored"]["request_tokens"] == 10


async def test_refused_records_are_listed_shown_replayed_and_discarded(
    tallystick: Tallystick, database_pool: Pool
) -> None:
    code, said, _ = await tallystick("quarantine", "list")
    assert (code, "3 open records: " in said) == (0, True)

    (binary,) = await records(tallystick, "not_utf8")
    code, said, _ = await tallystick("quarantine", "show", binary["id"])
    assert (code, "\x1b" in said, "b'\\x1b[31m\\xff'" in said) == (0, False, True)

    code, said, told = await tallystick("quarantine", "replay", "--yes", "--by", "ada")
    assert (code, told) == (1, "")
    assert "replayed 1 record: 1 stored, 0 were stored already, 0 held" in said
    assert "1 message of usage.recorded could not be published from here" in said
    assert "running ingest workers publish it" in said
    assert "refused again, and still open: not_json 1, for example: the value is not JSON" in said
    assert await database_pool.fetchval("SELECT count(*) FROM ingest_outbox WHERE topic = 'usage.recorded'") == 1

    code, said, _ = await tallystick("quarantine", "discard", "--reason", "not_json", "--why", "a test", "--yes")
    assert (code, said) == (0, "discarded 1 record\n")
    code, said, _ = await tallystick("quarantine", "replay", "--reason", "not_json", "--yes")
    assert (code, said) == (0, "nothing to replay\n")


async def test_a_held_event_is_listed_and_expired_once(tallystick: Tallystick) -> None:
    _, said, _ = await tallystick("held", "list", "--json")
    (event,) = json.loads(said)["events"]
    arguments = ("held", "expire", "--ids", event["id"], "--why", "a test", "--yes", "--by", "ada")
    assert (await tallystick(*arguments))[:2] == (0, "expired 1 event\n")
    code, said, _ = await tallystick(*arguments)
    assert (code, "was expired already" in said, said.endswith("nothing to expire\n")) == (0, True, True)
    assert (await tallystick("held", "list"))[1] == "no event is held\n"


async def test_mistakes_are_one_line_and_change_nothing(tallystick: Tallystick, database_pool: Pool) -> None:
    for arguments, line in (
        (("quarantine", "replay"), "Replay 3 records? Repeat with --yes if that is meant"),
        (("quarantine", "discard", "--why", "x"), "say which records: --reason R or --ids ID,…"),
        (("quarantine", "discard", "--reason", "not_json", "--why", " ", "--yes"), "--why is empty"),
        (("quarantine", "replay", "--reason", "bogus", "--yes"), "there is no reason 'bogus'; there are tombstone"),
        (("quarantine", "show", "bogus"), "'bogus' is not an id: a UUID is expected"),
        (("quarantine", "replay", "--ids", str(UUID(int=7)), "--yes"), f"not in quarantine: {UUID(int=7)}"),
        (("held", "expire", "--ids", str(UUID(int=7)), "--why", "x", "--yes"), f"never held: {UUID(int=7)}"),
    ):
        code, said, told = await tallystick(*arguments)
        assert (code, said, told.count("\n")) == (2, "", 1), arguments
        assert told.startswith(f"tallystick: {line}")
    assert await database_pool.fetchval("SELECT count(*) FROM quarantined_events WHERE resolution IS NULL") == 3


async def test_a_database_without_our_schema_is_one_line(empty_database: str, tmp_path: Path) -> None:
    code, _, told = await Tallystick(empty_database, tmp_path)("quarantine", "list")
    assert (code, told.count("\n"), "run 'tallystick migrate'" in told) == (2, 1, True)
