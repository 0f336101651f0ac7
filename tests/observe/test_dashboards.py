"""`tallystick demo --observe`: a real Prometheus asks every worker of the real demo, and every panel of the dashboards has data there."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import asyncpg
import psutil
import pytest
import yaml

from deploy.grafana.dashboards import DASHBOARDS, Panel
from deploy.local.stack import Stack
from services.cli.demo.observe import RULES
from tests.observe.looking import Prometheus, until
from tests.pipeline.running import TALLYSTICK
from tests.promql import recorded, selectors

PANELS: Final = [panel for board in DASHBOARDS for _, row in board.rows for panel in row]
EXPRESSIONS: Final = [
    *(query for panel in PANELS for query, _ in panel.queries),
    *(rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]),
]
EMPTY: Final = {
    "Batches read again": "no batch fails in a demo",
    "Certificates are valid for": "the demo's servers use no TLS",
    "Which differ": "every check holds",
    "Jobs that are overdue": "none is",
    "Invoices issued": "the demo closes the month itself, not billing's worker",
    "Attempts by outcome": "nobody has registered a webhook",
}
"""Panels without data, and why that is right."""
ONLY_WHEN_SOMETHING_HAPPENS: Final = {
    "tallystick_consumer_redeliveries_total",
    "tallystick_certificate_expires_timestamp_seconds",
    "usage_billing_webhook_attempts_total",
    "usage_billing_invoices_total",
}
"""Series of those panels: a label's value is not known before."""
DEMO_SECONDS: Final = 240.0


@pytest.fixture(scope="module")
def demo(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A small demo that has told its story and goes on; what observes it."""
    directory = tmp_path_factory.mktemp("demo")
    name = f"demo_{uuid.uuid4().hex}"
    asyncio.run(_execute(stack.database_url, f'CREATE DATABASE "{name}"'))
    environ = {
        **os.environ,
        "DATABASE_URL": stack.database_url.rpartition("/")[0] + f"/{name}",
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": f"{name}.",
        "TALLYSTICK_LOCAL_DIR": str(directory / "local"),
        "PYTHONPATH": str(Path.cwd()),
    }
    process = _start(environ, "demo", "--observe", "--events", "2000")
    giving_up = threading.Timer(DEMO_SECONDS, process.kill)
    giving_up.start()
    try:
        address = _told(process)
        _prove(environ, process)
        yield Prometheus(address)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "all through at" in said
    finally:
        giving_up.cancel()
        process.kill()
        process.wait()
        asyncio.run(_execute(stack.database_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


def _start(environ: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TALLYSTICK, *arguments]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _told(process: subprocess.Popen[str]) -> str:
    """Read what the demo says until its story is told; return where Prometheus is."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "look: " in line:
            break
    address = re.search(r"Prometheus: (\S+)/alerts", "".join(said))
    assert address, "".join(said)
    return address[1]


def _prove(environ: dict[str, str], demo: subprocess.Popen[str]) -> None:
    """Have the books proved, and end billing's worker, which looks for the last proof when it starts again: sooner than the hourly job."""
    with _start(environ, "jobs", "run", "reconcile") as proving:
        said, _ = proving.communicate()
    assert proving.returncode == 0, said
    [billing] = [child for child in psutil.Process(demo.pid).children() if "services.billing" in child.cmdline()]
    billing.kill()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


def without_data(prometheus: Prometheus, panel: Panel) -> list[str]:
    """Return the queries of a panel that find nothing."""
    return [query for query, _ in panel.queries if not prometheus.query(query)]


def missing(prometheus: Prometheus, expressions: list[str]) -> set[str]:
    """Return the series that expressions name and Prometheus does not have."""
    named = {name for expression in expressions for name in recorded(expression)}
    named |= {name for expression in expressions for name, _ in selectors(expression)}
    return named - prometheus.names() - ONLY_WHEN_SOMETHING_HAPPENS


async def test_every_worker_of_the_demo_is_asked(demo: Prometheus) -> None:
    everybody = dict.fromkeys(("ingest", "aggregator", "billing", "api"), "up")
    await until(lambda: demo.up() == everybody, "all workers are up", said=demo.up)


async def test_every_series_that_rules_and_dashboards_name_is_there(demo: Prometheus) -> None:
    await until(lambda: not missing(demo, EXPRESSIONS), "all series are there", said=lambda: missing(demo, EXPRESSIONS))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
async def test_a_panel_has_data(demo: Prometheus, panel: Panel) -> None:
    if panel.title in EMPTY:
        without_data(demo, panel)  # its queries are understood, at least
    else:
        await until(lambda: not without_data(demo, panel), "there is data", said=lambda: without_data(demo, panel))


def test_what_is_said_to_be_empty_exists() -> None:
    assert EMPTY.keys() <= {panel.title for panel in PANELS}


def test_a_query_for_what_does_not_exist_is_found(demo: Prometheus) -> None:
    typo = replace(PANELS[0], queries=[("sum(rate(usage_ingest_event_total[1m]))", "")])
    assert without_data(demo, typo)
    assert missing(demo, [typo.queries[0][0]]) == {"usage_ingest_event_total"}


def test_a_query_that_is_no_promql_is_found(demo: Prometheus) -> None:
    with pytest.raises(AssertionError, match="parse error"):
        without_data(demo, replace(PANELS[0], queries=[("sum(rate(usage_ingest_events_total[1m])", "")]))
