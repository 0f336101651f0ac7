"""The local stack with real servers: it is found, kept, ended and explained as promised."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local import connect, stack
from deploy.local.errors import LocalStackError
from deploy.local.postgres_programs import find_programs
from shared.errors import ConfigurationError, ServiceUnavailable

END_SECONDS = 60


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for a stack of this test's own, whatever servers the environment names; nothing runs in it afterwards."""
    for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "stack"
    monkeypatch.setenv("TALLYSTICK_LOCAL_DIR", str(directory))
    yield directory
    stack.down(purge=True)
    assert not directory.exists()


def wait_for_end(pid: int) -> None:
    """Return when the process has ended. It need not be a child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([descriptor], [], [], END_SECONDS)
        assert ended, f"process {pid} still runs"
    finally:
        os.close(descriptor)


def run_python(code: str) -> subprocess.Popen[str]:
    """A Python process of ours that runs `code`, in a session of its own as if in another terminal; killed if it takes too long."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )
    limit = threading.Timer(END_SECONDS, process.kill)
    limit.daemon = True
    limit.start()
    return process


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def program(directory: Path, name: str, version: str, *, otherwise: str) -> Path:
    """A stand-in for a server's program: one shell command to tell its version, another for everything else."""
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\ncase $1 in -version|--version) {version}; exit;; esac\n{otherwise}\n")
    path.chmod(0o755)
    return path


async def write(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def topics(bootstrap: str, *, create: str | None = None) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if create:
            await admin.create_topics([NewTopic(create, 2, 1)])
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def test_it_stays_is_found_again_and_keeps_its_data(place: Path) -> None:
    said: list[str] = []
    first = stack.up(say=said.append)
    assert any("PostgreSQL" in line for line in said)
    assert any("Apache Kafka 4.3.1" in line for line in said)
    await write(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert (
        await write(
            first.database_url, "SELECT count(*) FROM pg_settings WHERE name = 'max_connections' AND setting = '200'"
        )
        == 1
    )
    await topics(first.kafka_bootstrap_servers, create="kept")

    assert stack.up() == first == stack.status()
    assert connect.environment() == first.environment()

    assert stack.down()
    for server in first.servers:
        wait_for_end(server.pid or 0)
    assert stack.status() is None
    assert not stack.down()
    with pytest.raises(ConfigurationError, match="run `tallystick local up`"):
        connect.kafka_bootstrap_servers()

    again = stack.up()
    assert again.environment() == first.environment()
    assert await write(again.database_url, "SELECT answer FROM kept") == 42
    assert "kept" in await topics(again.kafka_bootstrap_servers)

    assert stack.down(purge=True)


@pytest.mark.parametrize("victim", ["parent", "supervisor"])
def test_servers_end_with_whoever_is_killed(victim: str, place: Path) -> None:
    parent = run_python(
        "from deploy.local.stack import running_stack\n"
        "with running_stack(durable=False) as running:\n"
        "    print(*(server.pid for server in running.stack.servers), running.stack.directory, flush=True)\n"
        "    input()\n"
    )
    *pids, directory = read_line(parent).split()
    supervisor = int((Path(directory) / "lock").read_text())
    os.kill(parent.pid if victim == "parent" else supervisor, signal.SIGKILL)
    for pid in (*map(int, pids), supervisor):
        wait_for_end(pid)
    parent.kill()
    parent.communicate()
    if victim == "parent":
        assert not Path(directory).exists()
    else:  # nobody is left who could remove it
        stack.down(directory=Path(directory), purge=True)


def test_interrupted_start_leaves_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "JAVA_HOME", str(program(tmp_path, "bin/java", "echo 'version \"25\"'", otherwise="exec sleep 600").parents[1])
    )
    command = run_python("import sys; from services.cli.main import run; sys.exit(run(['local', 'up']))")
    while "Postgres: ready" not in (line := read_line(command)):
        assert line, "it ended before it could be interrupted"
    supervisor = int((place / "lock").read_text())
    os.kill(command.pid, signal.SIGINT)
    assert command.wait(END_SECONDS) == 130
    command.communicate()
    wait_for_end(supervisor)
    assert stack.status() is None


def test_failed_start_stops_the_other_server_and_names_the_log(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "bin/initdb", "exit", otherwise="echo it is broken >&2; exit 3")
    broken = program(tmp_path, "bin/postgres", "echo postgres 18.4", otherwise="exit 3").parent
    monkeypatch.setenv("TALLYSTICK_POSTGRES_BIN", str(broken))
    with pytest.raises(
        LocalStackError, match=f"initdb failed with exit code 3: it is broken .*{place / 'postgres.log'}"
    ):
        stack.up()
    assert stack.status() is None
    monkeypatch.delenv("TALLYSTICK_POSTGRES_BIN")
    assert len(stack.up(durable=False).servers) == 2


def test_named_servers_are_used_and_nothing_is_started(
    postgres: str, kafka_bootstrap: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_bootstrap)
    said: list[str] = []
    running = stack.up(say=said.append)
    assert (running.database_url, running.kafka_bootstrap_servers) == (postgres, kafka_bootstrap)
    assert ["nothing is started for it" in line for line in said] == [True, True]
    assert stack.status() is None
    assert connect.database_url() == postgres


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "DATABASE_URL",
            "postgresql://me:secret@127.0.0.1:1/x",
            "Postgres does not answer at postgresql://me:…@127.0.0.1:1/x",
        ),
        ("DATABASE_URL", "nonsense", "Postgres does not answer at nonsense"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1", "Kafka does not answer at 127.0.0.1:1"),
    ],
)
def test_named_server_that_does_not_answer_is_explained(
    variable: str, value: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ServiceUnavailable, match=message.replace("…", ".")):
        stack.up()
    assert stack.status() is None


def test_two_at_once_share_one_stack(place: Path) -> None:
    found: list[stack.Stack] = []
    threads = [
        threading.Thread(target=lambda: found.append(stack.up(servers=("postgres",), durable=False))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len({started.database_url for started in found}) == 1


def test_two_checkouts_do_not_share_ports(tmp_path: Path) -> None:
    with (
        stack.running_stack(directory=tmp_path / "a", servers=("postgres",), durable=False) as a,
        stack.running_stack(directory=tmp_path / "b", servers=("postgres",), durable=False) as b,
    ):
        assert a.stack.database_url != b.stack.database_url


def test_remembered_port_that_is_taken_is_replaced(place: Path) -> None:
    before = stack.up(servers=("postgres",), durable=False)
    stack.down()
    port = int(before.database_url.rpartition(":")[2].partition("/")[0])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        assert f":{port}/" not in stack.up(servers=("postgres",), durable=False).database_url


def test_maimed_stack_is_started_again(place: Path) -> None:
    before = stack.up(servers=("postgres",), durable=False)
    pid = before.servers[0].pid or 0
    os.kill(pid, signal.SIGQUIT)
    wait_for_end(pid)
    assert stack.status() == stack.Stack((), place, ended=before.servers)
    with pytest.raises(ConfigurationError, match="runs without Postgres"):
        connect.database_url()
    after = stack.up(servers=("postgres",), durable=False)
    assert after.database_url == before.database_url
    assert after.servers[0].pid != pid


def test_data_of_another_major_version_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.up(servers=("postgres",), durable=False)
    stack.down()
    older = find_programs({}).parents[1] / "pginstall" / "bin"
    monkeypatch.setenv("TALLYSTICK_POSTGRES_BIN", str(older))
    with pytest.raises(LocalStackError, match=r"are of PostgreSQL 18, the server is 16\.\d+"):
        stack.up(servers=("postgres",))


def test_stack_of_one_server_says_that_the_other_is_missing(place: Path) -> None:
    with (
        stack.running_stack(servers=("postgres",), durable=False) as running,
        pytest.raises(LocalStackError, match="without kafka"),
    ):
        _ = running.stack.kafka_bootstrap_servers


def test_kept_stack_outlives_the_block(place: Path) -> None:
    with stack.running_stack(directory=place, servers=("postgres",), durable=False) as running:
        running.keep()
    assert stack.status() == running.stack
