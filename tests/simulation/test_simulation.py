"""The consumer and ingest, as they are, in a simulated world: the effects are exactly what the log below the position holds.

More of it: `python -m tests.simulation.run --steps 1000000`.
"""

from __future__ import annotations

from typing import Final

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.simulation.run import episode
from tests.simulation.world import PARTITIONS, World, silence

STEPS: Final = 60_000
PARTITION: Final = st.integers(0, PARTITIONS - 1)
CHOICE: Final = st.integers(0, 15)


def test_nothing_is_lost_or_doubled_whatever_happens() -> None:
    seed = steps = 0
    with silence():
        while steps < STEPS:
            steps += episode(seed).steps
            seed += 1


class Anything(RuleBasedStateMachine):
    """Whatever Hypothesis comes up with; what fails is shrunk to the few steps that matter."""

    def __init__(self) -> None:
        super().__init__()
        self._silence = silence()
        self._silence.__enter__()

    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.world.start()
        self.world.rebalance(seed)

    @rule(choices=st.lists(st.tuples(CHOICE, st.sampled_from((0, 0, 0, 0, 0, 0, 0, 1, 2))), min_size=1, max_size=12))
    def answer(self, choices: list[tuple[int, int]]) -> None:
        for choice, failure in choices:
            self.world.open(choice, failure)
            self.world.check()

    @rule(partition=PARTITION, kinds=st.lists(st.integers(0, 9), min_size=1, max_size=8))
    def produce(self, partition: int, kinds: list[int]) -> None:
        for kind in kinds:
            self.world.produce(partition, kind)

    @rule()
    def start(self) -> None:
        self.world.start()

    @rule(choice=CHOICE)
    def rebalance(self, choice: int) -> None:
        self.world.rebalance(choice)

    @rule(choice=CHOICE)
    def rejoin(self, choice: int) -> None:
        self.world.rejoin(choice)

    @rule(choice=CHOICE)
    def kill(self, choice: int) -> None:
        self.world.kill(choice)

    @rule(choice=CHOICE)
    def stop_or_continue(self, choice: int) -> None:
        self.world.stop_or_continue(choice)

    @rule()
    def lose_sessions(self) -> None:
        self.world.lose_sessions()

    @rule()
    def replicate(self) -> None:
        self.world.replicate()

    @rule()
    def fail_over(self) -> None:
        self.world.fail_over()

    @rule(partition=PARTITION)
    def forget_committed(self, partition: int) -> None:
        self.world.forget_committed(partition)

    @rule(partition=PARTITION, share=st.sampled_from((0.2, 0.5, 0.9)))
    def retain(self, partition: int, share: float) -> None:
        self.world.retain(partition, share)

    @invariant()
    def effects_are_what_the_log_holds_below_the_positions(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.come_to_rest()
                self.world.close()
        finally:
            self._silence.__exit__(None, None, None)


TestAnything = Anything.TestCase
TestAnything.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
