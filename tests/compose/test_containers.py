"""The image that users build, run as users run it: the services of deploy/compose.yaml, each under the constraints that are said there,
with the demo's traffic, a worker killed midway, and a proof at the end. `make test-containers` says what it needs."""

from __future__ import annotations

import asyncio
import io
import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest
from rich.console import Console

from deploy.seed import seed
from services.billing.reconciliation import reconcile
from services.cli.demo.display import Display
from services.cli.demo.sending import synthetic
from services.cli.demo.story import Story
from services.cli.demo.world import read_world
from services.ingest.settings import Settings
from shared.postgres import connect, create_pool
from tests.compose.composition import ON_DEMAND, ROOT, WORKERS, Definition
from tests.compose.conftest import USER
from tests.compose.engine import Engine
from tests.compose.running import Composition

pytestmark = pytest.mark.timeout(900)  # the first of them builds the image
EVENTS: Final = 20_000
MOST_BYTES: Final = 850_000_000
"""Of the image, with a base of 225 MB: what it had when this was written, and a sixth."""
MOST_CONTEXT_BYTES: Final = 8_000_000
PACKAGES: Final = ("shared", "services", "deploy", "tallystick")
SECONDS: Final = 60


@pytest.fixture
def settings(composition: Composition) -> Settings:
    """Where the composition's servers answer on this machine."""
    return Settings(
        database_url=f"postgresql://tallystick:tallystick@{composition.address('postgres')}/tallystick",
        kafka_bootstrap_servers=composition.address("kafka"),
    )


async def test_the_demo_runs_through_it_and_everything_is_counted_once(
    composition: Composition, settings: Settings, documents: Path
) -> None:
    before = composition.pid("ingest")
    now = datetime.now(UTC)
    await seed(settings.database_url, test_data=True)
    sending = synthetic(await read_world(settings.database_url), EVENTS, 1, now)
    pool = await create_pool(settings.database_url, max_size=3, application_name="tests")
    display = Display(Console(file=io.StringIO()))
    try:
        outcome = await Story(settings, sending, composition, pool, display, None, documents).tell()
    finally:
        await pool.close()
    assert outcome.failed_checks == []
    assert outcome.reconciled
    assert outcome.inserted > EVENTS
    assert outcome.invoices > 0
    assert composition.pid("ingest") != before, "the killed worker was started again"


async def test_a_request_is_reported_and_read_over_http(composition: Composition, settings: Settings) -> None:
    """What docs/how-to/containers.md leads through."""
    composition.command("api", "tallystick", "seed", "--test-data")
    composition.command("api", "tallystick", "user", "add", "grace@example.com", "--no-password")
    terms = ("--model", "gpt-4o-mini", "--currency", "USD", "--quota-requests", "1", "--quiet")
    made = composition.command("api", "tallystick", "subscription", "create", "--user", "grace@example.com", *terms)
    key = composition.command("api", "tallystick", "key", "create", made.strip(), "--quiet").strip()
    event = {
        "specversion": "1.0",
        "type": "tallystick.usage.v1",
        "source": "/my-laptop",
        "id": "request-1",
        "time": datetime.now(UTC).isoformat(),
        "data": {
            "model": "gpt-4o-mini",
            "provider": "openai",
            "request_tokens": 812,
            "response_tokens": 164,
            "latency_ms": 1240,
        },
    }
    for _ in range(2):
        await ask(composition, "/api/v1/events", key, event)

    async def is_suspended() -> bool:
        answer = await ask(composition, f"/api/v1/entitlements/{made.strip()}", key)
        return answer["allowed"] is False

    await until(is_suspended)
    usage = await ask(composition, "/api/v1/usage", key)
    assert "976" in json.dumps(usage), usage


def test_every_process_is_restrained(composition: Composition, image: str) -> None:
    for name in WORKERS:
        status = dict(
            line.split(":\t", 1)
            for line in composition.command(name, "cat", "/proc/1/status").splitlines()
            if ":\t" in line
        )
        assert status["Uid"].split() == [USER.partition(":")[0]] * 4, name
        assert status["Gid"].split() == ["0"] * 4, name
        assert {int(status[of], 16) for of in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}, name
        assert status["NoNewPrivs"] == "1", name
        assert status["Seccomp"] == "2", name


def test_nothing_of_the_image_can_be_written(composition: Composition) -> None:
    for folder in ("/", "/opt/tallystick", "/etc", "/var/tmp", "/tmp", "/run"):  # noqa: S108 (of the container)
        code, said = composition.containers["api"].exec_run(["python", "-c", f"open({folder!r} + '/x', 'w')"])
        assert code == 1, folder
        assert b"Errno 30" in said or b"Errno 13" in said, said


def test_a_service_that_writes_to_its_image_is_seen_to_fail(
    composition: Composition, services: dict[str, Definition]
) -> None:
    writes = {
        **services["migrate"],
        "command": ["python", "-c", "open('/opt/tallystick/x', 'w')"],
        "user": "1:0",
        "restart": "no",
    }
    as_root = {**writes, "user": "0:0"}
    may_write = {**as_root, "read_only": False}
    assert composition.ends("writer", writes)[0] == 1
    code, said = composition.ends("writer-as-root", as_root)
    assert code == 1
    assert "Read-only file system" in said
    assert composition.ends("writer-without-the-constraint", may_write)[0] == 0


@pytest.fixture
def backups(composition: Composition, services: dict[str, Definition]) -> Iterator[list[str]]:
    """A container in which backups can be made; yields the command that the composition makes one with."""
    definition = services[ON_DEMAND]
    with ExitStack() as ending:
        composition.containers[ON_DEMAND] = composition.run(
            ending, ON_DEMAND, {**definition, "command": ["sleep", "infinity"]}
        )
        yield definition["command"]


async def test_a_backup_is_made_proved_and_restored_in_the_image(
    composition: Composition, settings: Settings, backups: list[str]
) -> None:
    assert "; verified" in composition.command(ON_DEMAND, *backups)
    [listed] = composition.command(ON_DEMAND, "tallystick", "backup", "list", "--directory", "/backups").splitlines()
    connection = await connect(settings.database_url, application_name="tests")
    try:
        await connection.execute("CREATE DATABASE again TEMPLATE template0")
    finally:
        await connection.close()
    into = "postgresql://tallystick:tallystick@postgres:5432/again"
    said = composition.command(ON_DEMAND, "tallystick", "restore", listed.partition(": ")[0], "--into", into)
    assert "restored, counted and reconciled" in said


def test_a_backup_that_has_nowhere_to_go_says_so(composition: Composition, services: dict[str, Definition]) -> None:
    code, said = composition.ends("backup-nowhere", {**services[ON_DEMAND], "volumes": []})
    assert code == 2
    assert "/backups cannot be written" in said


def test_the_programs_of_backups_fit_every_server_and_know_tls(composition: Composition, backups: list[str]) -> None:
    for major in (16, 18):
        program = f"/usr/lib/postgresql/{major}/bin/pg_dump"
        assert f" {major}." in composition.command(ON_DEMAND, program, "--version")
        url = "postgresql://tallystick@postgres/tallystick?sslmode=require"
        code, said = composition.containers[ON_DEMAND].exec_run([program, f"--dbname={url}"])
        assert code == 1
        assert b"server does not support SSL, but SSL was required" in said, "it cannot do TLS itself"


def test_the_image_can_trace(composition: Composition) -> None:
    """Spans leave a process of the image for a collector, which is this same process."""
    script = """
import http.server, sys, threading, types
from shared import tracing
class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        came.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()
came = []
server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
tracing.start("ingest", "0", f"http://127.0.0.1:{server.server_port}")
with tracing.batch("usage.events", 0, [types.SimpleNamespace(offset=0, headers=())]):
    pass
tracing.stop()
sys.exit(b"process usage.events" not in b"".join(came))
"""
    composition.command("api", "python", "-c", script)


async def test_prometheus_finds_every_worker_and_knows_the_rules(composition: Composition) -> None:
    async def all_are_up() -> bool:
        found = await get(f"http://{composition.address('prometheus')}/api/v1/targets")
        health = {target["labels"]["service"]: target["health"] for target in found["data"]["activeTargets"]}
        return health == dict.fromkeys(WORKERS, "up")

    await until(all_are_up)
    rules = await get(f"http://{composition.address('prometheus')}/api/v1/rules")
    assert rules["data"]["groups"]


async def test_a_worker_that_is_asked_to_stop_ends_well_and_comes_back(
    composition: Composition, settings: Settings
) -> None:
    for name in WORKERS:
        container = composition.containers[name]
        await asyncio.to_thread(container.stop, timeout=45)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0, f"{name}: {composition.log(name)}"
        await asyncio.to_thread(container.start)
    for name in WORKERS:
        await asyncio.to_thread(composition.wait_until_healthy, name)
    connection = await connect(settings.database_url, application_name="tests")
    try:
        assert [check.name for check in await reconcile(connection) if not check.holds] == []
    finally:
        await connection.close()


def test_the_image_says_what_it_is_and_how_to_be_run(containers: Engine, image: str) -> None:
    made = containers.client.images.get(image)
    config = made.attrs["Config"]
    assert config["User"] == "10001:0"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Cmd"] == ["tallystick", "--help"]
    assert not config.get("Entrypoint")
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not [setting for setting in config["Env"] if "PIP" in setting or "PASSWORD" in setting]
    assert made.attrs["Size"] < MOST_BYTES


def test_the_image_has_all_of_our_code_and_no_installer(composition: Composition) -> None:
    installed = "import importlib.metadata as m; print({d.name for d in m.distributions()} & {'pip', 'setuptools', 'hatchling'})"
    assert composition.command("api", "python", "-c", installed).strip() == "set()"
    files = [
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for kind in ("py", "sql")
        for file in (ROOT / package).rglob(f"*.{kind}")
        if file.parent.name != "grafana"  # what dashboards are written from
    ]
    # Looked for in there: podman may cut off what a command says, where that is long.
    script = "import sys, pathlib as p, shared; print([f for f in sys.argv[1:] if not (p.Path(shared.__path__[0]).parent / f).exists()])"
    assert len(files) > 500
    assert composition.command("api", "python", "-c", script, *files).strip() == "[]"


def test_the_context_of_the_build_is_small(containers: Engine, tmp_path: Path) -> None:
    assert context_bytes(containers, ROOT, tmp_path) < MOST_CONTEXT_BYTES


def test_a_lock_with_a_wrong_hash_builds_nothing(containers: Engine, tmp_path: Path) -> None:
    lock = (ROOT / "deploy" / "requirements.lock").read_text()
    entry = lock[lock.index("\nidna==") + 1 :].splitlines()[0].rstrip(" \\")
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "requirements.lock").write_text(f"{entry} --hash=sha256:{'0' * 64}\n")
    (tmp_path / "deploy" / "Dockerfile").write_text((ROOT / "deploy" / "Dockerfile").read_text())
    (tmp_path / "services" / "ingest" / "native").mkdir(parents=True)
    (tmp_path / "services" / "ingest" / "native" / "Cargo.toml").touch()
    built = containers.build("localhost/never:test", context=tmp_path)
    assert built.returncode != 0
    assert "DO NOT MATCH THE HASHES" in built.stdout + built.stderr


def context_bytes(containers: Engine, context: Path, scratch: Path) -> int:
    """Return the size of what a build is sent: of an image that has nothing but the context."""
    dockerfile = scratch / "Context"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    tag = "localhost/context:test"
    built = containers.build(tag, context=context, dockerfile=str(dockerfile))
    assert built.returncode == 0, built.stderr
    return int(containers.client.images.get(tag).attrs["Size"])


async def ask(composition: Composition, path: str, key: str, event: Mapping[str, Any] | None = None) -> Any:
    """Ask the API, or send it an event."""
    headers = {"Authorization": f"Bearer {key}"}
    if event:
        headers["Content-Type"] = "application/cloudevents+json"
    body = json.dumps(event).encode() if event else None
    return await get(f"http://{composition.address('api')}{path}", headers, body)


async def get(url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310 (of this machine)

    def fetch() -> Any:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")

    return await asyncio.to_thread(fetch)


async def until(holds: Any) -> None:
    """Return when `holds` does; fail if that takes too long."""
    deadline = monotonic() + SECONDS
    while not await holds():
        assert monotonic() < deadline, holds.__name__
        await asyncio.sleep(0.2)
