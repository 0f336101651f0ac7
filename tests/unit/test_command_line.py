"""What a person sees of the command line when something is wrong: one line and an exit code, never a traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.cli import main
from shared.errors import ConfigurationError, ServiceUnavailable


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """Run `tallystick migrate` with its work replaced."""

    def run(work: Callable[[], object]) -> int:
        def migrate() -> object:
            return work()

        monkeypatch.setattr("services.cli.database.migrate", migrate)
        return main.run(["migrate"])

    return run


def raising(error: BaseException) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["migrate", "--bogus"], "tallystick: No such option: --bogus; see `tallystick migrate --help`\n"),
        (["local", "down", "--bogus"], "tallystick: No such option: --bogus; see `tallystick local down --help`\n"),
        (["nonsense"], "tallystick: No such command 'nonsense'; see `tallystick --help`\n"),
        (["--rubbish"], "tallystick: No such option: --rubbish; see `tallystick --help`\n"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigurationError("set this"), "tallystick: set this\n"),
        (ExceptionGroup("tasks", [ServiceUnavailable("start that")]), "tallystick: start that\n"),
        (
            FileNotFoundError(2, "No such file or directory", "trace.csv"),
            "tallystick: No such file or directory (trace.csv)\n",
        ),
        (ConnectionRefusedError("refused"), "tallystick: refused\n"),
    ],
)
def test_expected_error_is_one_line(
    command_that: Callable[[Callable[[], object]], int], error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_that(raising(error)) == 2
    assert capsys.readouterr().err == line


def test_bug_is_not_hidden(command_that: Callable[[Callable[[], object]], int]) -> None:
    with pytest.raises(ZeroDivisionError):
        command_that(raising(ZeroDivisionError()))


def test_interrupt_has_its_own_exit_code(command_that: Callable[[Callable[[], object]], int]) -> None:
    assert command_that(raising(KeyboardInterrupt())) == 130


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1)])
def test_exit_code_is_what_the_command_returns(
    command_that: Callable[[Callable[[], object]], int], result: object, code: int
) -> None:
    assert command_that(lambda: result) == code


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    for command in main.COMMANDS:
        assert main.run([command, "--help"]) == 0, command
    assert capsys.readouterr().err == ""


def test_command_without_servers_says_how_to_get_some(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TALLYSTICK_LOCAL_DIR", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main.run(["migrate"]) == 2
    assert (
        capsys.readouterr().err
        == "tallystick: there is no Postgres to use: run `tallystick local up`, or set DATABASE_URL\n"
    )


def test_reset_is_not_done_unasked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/usage")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main.run(["migrate", "--reset"]) == 2
    line = capsys.readouterr().err
    assert "repeat with --yes" in line
    assert "secret" not in line
