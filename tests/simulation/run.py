"""Seeded runs of the simulated world. `python -m tests.simulation.run --steps 1000000` runs many, and names the seed of a failure."""

from __future__ import annotations

import argparse
import random
import sys
from time import monotonic
from typing import Final

from tests.simulation.model import Violation
from tests.simulation.world import PARTITIONS, World, silence

EPISODE_STEPS: Final = 600
"""Steps in which a world is disturbed, before it has to come to rest."""


def step(world: World, rng: random.Random) -> None:
    """Let one thing happen: mostly a call is answered; now and then something breaks."""
    chance = rng.random()
    if chance < 0.72:
        world.open(rng.randrange(1 << 16), rng.choice((1, 2)) if rng.random() < 0.02 else 0)
    elif chance < 0.87:
        world.produce(rng.randrange(PARTITIONS), rng.randrange(10))
    elif chance < 0.91:
        world.pass_time()
    elif chance < 0.94:
        world.rejoin(rng.randrange(8))
    else:
        _disturb(world, rng)


def _disturb(world: World, rng: random.Random) -> None:
    match rng.randrange(100):
        case n if n < 25:
            world.start()
        case n if n < 50:
            world.rebalance(rng.randrange(1 << 16))
        case n if n < 62:
            world.kill(rng.randrange(1 << 16))
        case n if n < 76:
            world.stop_or_continue(rng.randrange(8))
        case n if n < 81:
            world.lose_sessions()
        case n if n < 86:
            world.replicate()
        case n if n < 89:
            world.fail_over()
        case n if n < 94:
            world.forget_committed(rng.randrange(PARTITIONS))
        case n if n < 98:
            world.retain(rng.randrange(PARTITIONS), rng.random() * rng.random())
        case _ if rng.random() < 0.1:
            world.recreate(rng.randrange(PARTITIONS))


def episode(seed: int, steps: int = EPISODE_STEPS) -> World:
    """Run one world from `seed` to its rest. Raises `Violation`."""
    rng, world = random.Random(seed), World(seed)
    world.start()
    world.rebalance(1)
    try:
        for _ in range(steps):
            step(world, rng)
            world.check()
        world.come_to_rest()
    finally:
        world.close()
    return world


def main() -> int:
    """Run episodes until there were enough steps. Exit code 1 at the first violation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first episode; the next ones count on")
    told = parser.parse_args()
    seed, steps, commits, begun = told.seed, 0, 0, monotonic()
    with silence():
        while steps < told.steps:
            try:
                world = episode(seed)
            except Violation as violation:
                print(f"seed {seed}: {violation}", file=sys.stderr)  # noqa: T201
                return 1
            seed, steps, commits = seed + 1, steps + world.steps, commits + world.database.commits
    print(  # noqa: T201
        f"{steps:,} steps, {commits:,} commits in {seed - told.seed:,} episodes (seeds {told.seed}–{seed - 1}) "
        f"in {monotonic() - begun:.1f} s: nothing lost, nothing doubled"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
