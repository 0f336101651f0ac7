"""The simulation can fail: each known bug, put back, is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from tests.simulation.model import Violation
from tests.simulation.mutations import MUTATIONS, the_window_is_updated_before_the_commit
from tests.simulation.run import episode
from tests.simulation.world import silence

EPISODES: Final = 400


def failing_check(episodes: int = EPISODES) -> str | None:
    """Return the name of the first check that fails, if one does."""
    with silence():
        for seed in range(episodes):
            try:
                episode(seed)
            except Violation as found:
                return found.check
    return None


@pytest.mark.parametrize(("mutate", "check"), MUTATIONS.items(), ids=[mutate.__name__ for mutate in MUTATIONS])
def test_a_known_bug_is_found(
    mutate: Callable[[pytest.MonkeyPatch], None], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)

    assert failing_check() == check


def test_a_window_that_only_suspects_may_remember_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    the_window_is_updated_before_the_commit(monkeypatch)

    assert failing_check(60) is None
