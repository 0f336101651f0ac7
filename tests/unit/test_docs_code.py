"""The code on the documentation's pages would run: commands are understood, Python compiles, JSON and YAML can be read.

SQL is in tests/integration/test_docs_sql.py, as it takes a database to understand it. What runs whole pages are the
tests whose name has `howto`, and tests/pipeline/test_quick_start.py.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import typer
import yaml
from typer.main import get_command

from services.cli.main import app
from services.ingest.acceptance import Limits, accept
from shared import contracts
from shared.corrections import AmendEvent, VoidEvent
from tests.documentation import PAGES, ROOT, SHELL, Block, blocks_of, commands_of, script_of

USAGE_ERROR: Final[type[Exception]] = typer.BadParameter.__mro__[1]  # typer gives no name to it
NOTATION: Final = ("…", "ID", "USER", "KEY", "SUBSTITUTED", "$")
"""What begins or contains these stands for a value that the reader has."""
EVENTS: Final[dict[str, type[contracts.UsageEvent | VoidEvent | AmendEvent]]] = {
    "tallystick.usage.v1": contracts.UsageEvent,
    "tallystick.usage.void.v1": VoidEvent,
    "tallystick.usage.amend.v1": AmendEvent,
}

of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@of_each_page
def test_every_block_of_code_would_run(page: Path) -> None:
    assert list(problems(page.read_text(encoding="utf-8"))) == []


def problems(page: str) -> Iterator[str]:
    """Yield what is wrong with the blocks of a page."""
    for block in blocks_of(page):
        yield from _problems_of_shell(block)
        if block.language == "python":
            yield from _problems_of_python(block.body)
        if block.language == "json":
            yield from _problems_of_json(block.body)
        if block.language == "yaml":
            yield from _problems_of_yaml(block.body)


def _problems_of_shell(block: Block) -> Iterator[str]:
    script = script_of(block)
    if block.language in SHELL:
        checked = subprocess.run(["/bin/bash", "-n"], input=script, text=True, capture_output=True, check=False)
        if checked.returncode:
            yield checked.stderr
            return
    for words in commands_of(script):
        if words and words[0] == "tallystick":
            yield from _problems_of_command(words[1:])
        elif words and words[0] == "curl":
            yield from _problems_of_curl(words[1:])


def _problems_of_command(words: list[str]) -> Iterator[str]:
    """Read the words as the command line does, to the last option and value, and run nothing."""
    command: Any = get_command(app)
    line, rest = f"tallystick {' '.join(words)}", words
    parent = None
    try:
        while True:
            with command.make_context(command.name, list(rest), parent=parent) as context:
                if not hasattr(command, "resolve_command"):
                    return
                left = [*context._protected_args, *context.args]  # click offers no public way to ask
                _, command, rest = command.resolve_command(context, left)
                parent = context
    except typer.Exit:
        return  # --help, --version
    except typer.BadParameter as error:
        if not any(sign in word for word in words for sign in NOTATION) and "does not exist" not in str(error):
            yield f"{line}: {error}"
    except USAGE_ERROR as error:
        yield f"{line}: {error}"


def _problems_of_curl(words: list[str]) -> Iterator[str]:
    """Ask whether the API has the path and the method, and whether the body is JSON."""
    url = next((word for word in words if "/api/v1/" in word or word.startswith("$API/")), "")
    bodies = [words[at + 1] for at, word in enumerate(words[:-1]) if word in {"-d", "--data"}]
    for body in bodies:
        if body.startswith(("{", "[")):
            yield from _problems_of_json(body, subject="of the key")
    in_the_url = any(re.fullmatch(r"-\w*G\w*", word) for word in words)
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if bodies and not in_the_url else "GET"
    path = re.sub(r"^.*/api/v1/|^\$API/|\?.*$", "", url)
    if path and path != "openapi.json" and not any(known.fullmatch(path) for known in _paths(method.lower())):
        yield f"the API has no {method} {url}"


@cache
def _paths(method: str) -> list[re.Pattern[str]]:
    """Return what the paths of a method look like; a parameter at the end may have slashes."""
    document = json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text(encoding="utf-8"))
    return [
        re.compile(re.sub(r"\{\w+\}", "[^/]+", re.sub(r"\{\w+\}$", ".+", path.removeprefix("/api/v1/"))))
        for path, operations in document["paths"].items()
        if method in operations
    ]


def _problems_of_python(code: str) -> Iterator[str]:
    try:
        tree = ast.parse(code)
        compile(code, "<page>", "exec")
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (problem for name in node.names for problem in _problem_of_import(name.name, None))
        if isinstance(node, ast.ImportFrom):
            yield from (problem for name in node.names for problem in _problem_of_import(node.module or "", name.name))


def _problem_of_import(module: str, name: str | None) -> Iterator[str]:
    try:
        found = import_module(module)
    except ImportError as error:
        yield f"import {module}: {error}"
        return
    if name and not hasattr(found, name):
        yield f"{module} has no {name}"


def _problems_of_json(text: str, **known: str) -> Iterator[str]:
    """Ask whether it is JSON, and whether ingest takes the events in it, to whose fields the API adds what is `known`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        yield f"{error}: {text.splitlines()[0]}"
        return
    for event in value if isinstance(value, list) else [value]:
        if isinstance(event, dict) and (kind := EVENTS.get(event.get("type", ""))):
            yield from _problems_of_event(known | event, kind)


def _problems_of_event(
    event: dict[str, Any], kind: type[contracts.UsageEvent | VoidEvent | AmendEvent]
) -> Iterator[str]:
    """Ask ingest whether it takes the event, at the event's own time."""
    if "$" in event["time"] or "SUBSTITUTED" in event["time"]:
        event = {**event, "time": "2026-11-21T10:15:30Z"}
    text = json.dumps(event).encode()
    try:
        limits = Limits()
        accepted = accept(text, (), limits, *limits.window(msgspec.json.decode(text, type=kind).time))
    except msgspec.ValidationError as error:
        yield str(error)
        return
    if not isinstance(accepted, kind):
        yield f"ingest refuses {event['id']}: {accepted}"


def _problems_of_yaml(text: str) -> Iterator[str]:
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        yield str(error)


def fenced(info: str, body: str) -> str:
    return f"Words.\n\n```{info}\n{body}\n```\n"


PLANTED: Final = {
    "a command that is none": fenced("console", "$ tallystick migrat"),
    "a subcommand that is none": fenced("", "tallystick invoice shut --period 2026-10"),
    "an option that is none": fenced("bash", "tallystick topics \\\n  --partition 8"),
    "an argument too many": fenced("sh", "tallystick migrate now"),
    "an option without its value": fenced("console", "$ tallystick topics --partitions"),
    "a value of another type": fenced("console", "$ tallystick topics --partitions many"),
    "a command inside another": fenced("bash", "KEY=$(tallystick key make --quiet)"),
    "a command behind a variable, in the background": fenced("bash", "A=1 tallystick up --ingests 2 &"),
    "a command in a list": "1. Do\n\n   ```console\n   $ tallystick upp\n   ```\n",
    "a quotation that does not end": fenced("bash", "echo 'never"),
    "an endpoint that is none": fenced("bash", 'curl -sS "$API/usages?step=day"'),
    "a method that is none": fenced("console", "$ curl -X DELETE http://127.0.0.1:8084/api/v1/usage"),
    "a body that is no JSON": fenced("bash", "curl $API/reservations -d '{\"tokens\": 1,}'"),
    "Python that does not compile": fenced("python", "def f(:"),
    "an import that is none": fenced("python", "import tallystick.klient"),
    "a name that is not there": fenced("python", "from tallystick.client import Klient"),
    "JSON that is none": fenced("json", "{'a': 1}"),
    "an event that ingest refuses": fenced(
        "json",
        (ROOT / "docs/reference/contracts.md")
        .read_text(encoding="utf-8")
        .split("```json usage.events\n")[1]
        .split("```")[0]
        .replace('"request_tokens": 812', '"request_tokens": -812'),
    ),
    "YAML that is none": fenced("yaml", "a: [1"),
}


@pytest.mark.parametrize("page", PLANTED.values(), ids=PLANTED)
def test_a_defect_is_found(page: str) -> None:
    assert len(list(problems(page))) == 1


def test_what_is_right_is_left_alone() -> None:
    page = fenced("console", "$ tallystick invoice close --period 2026-10\ntallystick: said the command, --whatever")
    page += fenced("bash", 'A="$(tallystick webhooks new-key),$A"  # tallystick nothing')
    page += fenced("bash", "cat > x <<'END'\ntallystick nothing\nEND\ntallystick migrate > log 2>&1")
    page += fenced("", "tallystick: an error that is shown")
    assert list(problems(page)) == []
