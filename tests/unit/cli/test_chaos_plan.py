"""The plan of a chaos run, its commit points, and the guard of its failpoints."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cli.chaos import failpoints
from services.cli.chaos.failpoints import DIRECTORY, TOKEN, TOKEN_FILE, of_this_process
from services.cli.chaos.faults import ALONE, KILL_AT_POINT, WEIGHTS, plan, service_of
from services.cli.chaos.points import SQL_EDGES, edge_of, points
from shared.errors import ConfigurationError
from shared.sql import Queries

ROOT: Final = Path(__file__).parents[3]
WORKERS: Final = ("ingest-0", "ingest-1", "aggregator-0", "billing-0")
SQL_OF: Final = {
    "ingest": "services/ingest",
    "aggregator": "services/aggregator",
    "billing": "services/billing",
    "closing": "services/billing",
}

TABLES: Final = {"positions": "positions", "recorded": "positions", "outbox": "outbox"}
"""Of which tables of a service the kernel's SQL is."""


@given(st.integers(), st.integers(1, 300))
@settings(max_examples=30)
def test_a_seed_decides_what_strikes_and_in_which_order(seed: int, faults: int) -> None:
    first = plan(seed, faults, WORKERS)

    assert first == plan(seed, faults, WORKERS)
    assert len(first) == faults


@given(st.integers())
@settings(max_examples=30)
def test_every_class_strikes_when_there_are_enough_faults(seed: int) -> None:
    assert {fault.kind for fault in plan(seed, len(WEIGHTS), WORKERS)} == set(WEIGHTS)


def test_a_long_run_kills_each_worker_at_each_point() -> None:
    faults = [fault for fault in plan(7, 1_000, WORKERS) if fault.kind == KILL_AT_POINT]

    assert {(f.worker, f.point) for f in faults} == {(w, p) for w in WORKERS for p in points(service_of(w))}


def test_what_needs_a_person_strikes_alone() -> None:
    assert all(fault.alone for fault in plan(3, 1_000, WORKERS) if fault.kind in ALONE)


@pytest.mark.parametrize(("service", "edge"), [(s, e) for s, edges in SQL_EDGES.items() for e in edges])
def test_each_point_is_a_statement_of_its_service(service: str, edge: str) -> None:
    files = [
        *(ROOT / SQL_OF[service]).rglob("*.sql"),
        ROOT / "shared/positions.sql",
        ROOT / "shared/outbox.sql",
        ROOT / "shared/recorded.sql",
    ]
    texts = [
        query.replace("{table}", f"{service if service != 'closing' else 'billing'}_{TABLES.get(file.stem, '')}")
        for file in files
        for query in Queries(file.read_text(encoding="utf-8"), origin=file.name).values()
    ]

    assert "COPY" in SQL_EDGES[service][edge] or edge in {edge_of(service, text) for text in texts}


@pytest.mark.parametrize(("service", "table"), [("ingest", "usage_logs"), ("billing", "rated_usage")])
def test_what_is_copied_is_recognised_by_its_table(service: str, table: str) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / SQL_OF[service]).rglob("*.py"))

    assert re.search(rf'copy_records_to_table\(\s*"{table}"', code)
    assert edge_of(service, f"COPY {table}")


@pytest.mark.parametrize("given_token", [None, "", "another"])
def test_failpoints_are_refused_without_the_token_of_the_harness(tmp_path: Path, given_token: str | None) -> None:
    (tmp_path / TOKEN_FILE).write_text("the token", encoding="ascii")
    environ = {DIRECTORY: str(tmp_path)} | ({} if given_token is None else {TOKEN: given_token})

    with pytest.raises(ConfigurationError):
        of_this_process(environ, "ingest-0", "ingest")


class Client:
    """Stands for a client whose calls are wrapped; `calls` counts those that came through."""

    calls = 0

    async def call(self) -> str:
        self.calls += 1
        return "done"


def armed(tmp_path: Path) -> failpoints.Failpoints:
    """The failpoints of a process, with `Client.call` wrapped as the edge `commit`."""
    (tmp_path / TOKEN_FILE).write_text("the token", encoding="ascii")
    return of_this_process({DIRECTORY: str(tmp_path), TOKEN: "the token"}, "ingest-0", "ingest")


async def test_a_process_of_the_harness_dies_only_at_the_point_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr("services.cli.chaos.failpoints.os.kill", lambda _, how: killed.append(how))
    monkeypatch.setattr(Client, "call", Client.call)
    armed(tmp_path)._wrap(Client, "call", lambda _: "commit", None)
    client = Client()

    await client.call()
    failpoints.choose(tmp_path, "ingest-0", "after_lock", failpoints.DIE)
    await client.call()
    assert not killed
    assert not failpoints.passed(tmp_path, "ingest-0")

    failpoints.choose(tmp_path, "ingest-0", "after_commit", failpoints.DIE)
    await client.call()
    await client.call()
    assert (len(killed), client.calls) == (1, 4)
    assert failpoints.passed(tmp_path, "ingest-0")


async def test_a_connection_is_cut_before_or_after_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aborted: list[Any] = []

    class Transport:
        def abort(self) -> None:
            aborted.append(self)

    monkeypatch.setattr(Client, "call", Client.call)
    monkeypatch.setattr(Client, "_transport", Transport(), raising=False)
    armed(tmp_path)._wrap(Client, "call", lambda _: "commit", lambda arguments: arguments[0])
    client = Client()

    for side, calls in (("before", 0), ("after", 1)):
        failpoints.choose(tmp_path, "ingest-0", f"{side}_commit", failpoints.CUT)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(client.call(), 5)
        assert client.calls == calls
    assert len(aborted) == 2
