"""The image, built once for all tests here, and the whole composition running from it under an arbitrary user, as OpenShift gives one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from deploy.local import ports
from tests.compose.composition import Definition, read
from tests.compose.engine import Engine, engine
from tests.compose.running import Composition, network

IMAGE: Final = "localhost/tallystick:test"
USER: Final = "1000730000:0"
PUBLISHED: Final = ("KAFKA_PORT", "POSTGRES_PORT", "API_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
ENVIRONMENT: Final = {"billing": {"TALLYSTICK_BILLING_CLOSE_PERIODS": "false"}}
"""The story of the demo closes last month itself, when all of its usage has come."""


@pytest.fixture(scope="session")
def containers() -> Iterator[Engine]:
    """An engine."""
    with engine() as found:
        yield found


@pytest.fixture(scope="session")
def image(containers: Engine) -> str:
    """The name of the image that deploy/Dockerfile gives."""
    built = containers.build(IMAGE)
    assert built.returncode == 0, f"{built.stdout[-4_000:]}{built.stderr[-4_000:]}"
    return IMAGE


@pytest.fixture(scope="session")
def services() -> dict[str, Definition]:
    """The composition as somebody sees it who chooses image, user and ports."""
    taken: frozenset[int] = frozenset()
    for _ in PUBLISHED:
        taken |= {ports.choose(taken=taken)}
    chosen = dict(zip(PUBLISHED, map(str, taken), strict=True))
    return read({"IMAGE": IMAGE, "RUN_AS": USER, **chosen})


@pytest.fixture(scope="session")
def composition(containers: Engine, image: str, services: dict[str, Definition]) -> Iterator[Composition]:
    """All services, each ready."""
    with ExitStack() as ending:
        running = Composition(containers, services, image, ending.enter_context(network()))
        running.start(ending, environment=ENVIRONMENT)
        yield running


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Where the demo's story writes an invoice."""
    return tmp_path / "documents"
