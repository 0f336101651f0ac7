"""The plan of a chaos run, and the guard of its failpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.chaos import failpoints
from services.cli.chaos.failpoints import DIRECTORY, POINTS, TOKEN, TOKEN_FILE, of_this_process
from services.cli.chaos.faults import FAILPOINT, TOGETHER, WEIGHTS, plan
from shared.errors import ConfigurationError

WORKERS = ("ingest-0", "ingest-1", "aggregator-0", "billing-0")


@given(st.integers(), st.integers(1, 300))
def test_a_seed_decides_what_strikes_and_when(seed: int, faults: int) -> None:
    rounds = plan(seed, faults, WORKERS, 8)

    assert rounds == plan(seed, faults, WORKERS, 8)
    assert sum(map(len, rounds)) == faults
    assert all(1 <= len(present) <= TOGETHER for present in rounds)


@given(st.integers())
def test_every_class_strikes_when_there_are_enough_faults(seed: int) -> None:
    assert {fault.kind for present in plan(seed, len(WEIGHTS), WORKERS, 8) for fault in present} == set(WEIGHTS)


@given(st.integers())
def test_no_worker_is_struck_twice_at_once(seed: int) -> None:
    for present in plan(seed, 100, WORKERS, 8):
        struck = [fault.worker for fault in present if fault.worker]
        assert len(struck) == len(set(struck))


def test_a_long_run_kills_each_worker_at_each_point() -> None:
    faults = [fault for present in plan(7, 400, WORKERS, 8) for fault in present if fault.kind == FAILPOINT]

    assert {(fault.worker, fault.point) for fault in faults} == {(w, p) for w in WORKERS for p in POINTS}


@pytest.mark.parametrize("given_token", [None, "", "another"])
def test_failpoints_are_refused_without_the_token_of_the_harness(tmp_path: Path, given_token: str | None) -> None:
    (tmp_path / TOKEN_FILE).write_text("the token", encoding="ascii")
    environ = {DIRECTORY: str(tmp_path)} | ({} if given_token is None else {TOKEN: given_token})

    with pytest.raises(ConfigurationError):
        of_this_process(environ, "ingest-0")


def test_a_worker_of_the_harness_dies_only_at_the_point_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / TOKEN_FILE).write_text("the token", encoding="ascii")
    points = of_this_process({DIRECTORY: str(tmp_path), TOKEN: "the token"}, "ingest-0")
    killed: list[int] = []
    monkeypatch.setattr("services.cli.chaos.failpoints.os.kill", lambda _, how: killed.append(how))

    failpoints.choose(tmp_path, "ingest-0", "after_commit")
    points.come_by("before_commit")
    assert not killed
    assert not failpoints.passed(tmp_path, "ingest-0")

    points.come_by("after_commit")
    points.come_by("after_commit")
    assert len(killed) == 1
    assert failpoints.passed(tmp_path, "ingest-0")
