"""What the documentation says is so: links lead somewhere, what it names exists, examples are valid, generated pages are current."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from typer.main import get_command

from docs import generate
from services.cli.main import app
from services.ingest.acceptance import Limits, Reason, accept
from shared import contracts
from shared.corrections import AmendEvent, VoidEvent
from tests.documentation import PAGES, ROOT, blocks_of, without_code_blocks

DOCS: Final = ROOT / "docs"
CODE: Final = sorted(
    file
    for folder in ("shared", "services", "deploy", "tallystick")
    for end in ("py", "sql")
    for file in (ROOT / folder).rglob(f"*.{end}")
)
NOT_VARIABLES: Final = {"TALLYSTICK_INGEST_", "TALLYSTICK_TESTS_EXIT_CODE", "TALLYSTICK_FUZZ_EXAMPLES"}

of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_blocks(text: str, *infos: str) -> list[str]:
    """Return the bodies of the fenced blocks whose opening fence says one of `infos`."""
    return [block.body for block in blocks_of(text) if block.info in infos]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code_blocks(text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pictures_are_small_and_shown() -> None:
    shown = "".join(text_of(page) for page in PAGES)
    for picture in (DOCS / "pictures").iterdir():
        assert picture.stat().st_size <= 150 * 1024, f"{picture.name} is too large"
        assert f"pictures/{picture.name})" in shown, f"{picture.name} is on no page"


@of_each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(text_of(page))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{path or 'the page'} has no heading '{anchor}'"


@of_each_page
def test_the_files_and_tests_that_are_named_exist(page: Path) -> None:
    for path, test in re.findall(
        r"`((?:shared|services|deploy|tallystick|tests|docs|benchmarks)/[\w./-]*\w)(?:::(test_\w+))?`", text_of(page)
    ):
        assert (ROOT / path).exists(), path
        assert not test or re.search(rf"def {test}\b", text_of(ROOT / path)), f"{path} has no {test}"


@of_each_page
def test_the_variables_that_are_named_exist(page: Path) -> None:
    known = set(re.findall(r"TALLYSTICK_\w+", generate.settings_page())) | NOT_VARIABLES
    assert set(re.findall(r"TALLYSTICK_\w+", text_of(page))) <= known


@of_each_page
def test_the_metrics_that_are_named_exist(page: Path) -> None:
    known = set(re.findall(r"^\| `(\w+)`", generate.metrics_page(), re.MULTILINE))
    named = set(
        re.findall(
            r"\b(?:tallystick|usage_(?:ingest|aggregator|billing))_[a-z_]+(?:_total|_seconds|_partitions|_records|_messages|_waiting)\b",
            text_of(page),
        )
    )
    assert named <= known


TO_BE_FOLLOWED: Final = ("runbooks", "how-to", "tutorial")
"""Folders of pages whose commands are to be typed as they stand."""


@of_each_page
def test_the_commands_that_are_named_exist(page: Path) -> None:
    for line in _spans_of_code(text_of(page)):
        for words in re.findall(r"(?<![\w/.'\[-])tallystick((?: +[^\s#;|&)<>`]+)+)", line):
            command, rest = _assert_command(_words(words))
            if page.parent.name in TO_BE_FOLLOWED:
                _assert_complete(command, rest)
        for target in re.findall(r"(?<![\w/-])make ([a-z]+)\b", line):
            assert re.search(rf"^{target}:", text_of(ROOT / "Makefile"), re.MULTILINE), f"make {target}"


def _spans_of_code(text: str) -> Iterator[str]:
    """Yield what a terminal takes, the lines of unnamed and console blocks, and what stands between backticks."""
    for block in code_blocks(text, "", "console"):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", without_code_blocks(text))


def _words(line: str) -> list[str]:
    """Return the words of a command line as a shell does; as they stand where a quotation goes on beyond them."""
    try:
        return shlex.split(line)
    except ValueError:
        return [*line.split(), "…"]


def _assert_command(words: list[str]) -> tuple[Any, list[str]]:
    """Follow a command line from the root: what comes after the subcommand has to be options of it. Return the command, and what comes after."""
    command, said, rest = get_command(app), f"in: tallystick {' '.join(words)}", list(words)
    while rest and hasattr(command, "get_command") and not rest[0].startswith(("-", "…")):
        word = rest.pop(0)
        subcommand = command.get_command(command.make_context("tallystick", [], resilient_parsing=True), word)
        assert subcommand is not None, f"no command {word} ({said})"
        command = subcommand
    for word in (word for word in rest if word.startswith("-")):
        options = {option for parameter in command.params for option in getattr(parameter, "opts", ())}
        assert word.partition("=")[0] in options | {"--help"}, f"{command.name} has no {word} ({said})"
    return command, rest


def _assert_complete(command: Any, rest: list[str]) -> None:
    """What is written behind a command is all that it needs, and nothing that it does not take. A command that is only named is not run."""
    if not rest or any("…" in word or word == "--help" for word in rest):
        return
    said = f"in: {command.name} {' '.join(rest)}"
    context = command.make_context(command.name, [*rest], resilient_parsing=True)
    assert not context.args, f"{command.name} does not take {' '.join(context.args)} ({said})"
    needed = [p.opts[0] for p in command.params if p.required and p.param_type_name == "option"]
    given = {word.partition("=")[0] for word in rest}
    assert given.issuperset(needed), f"{command.name} needs {', '.join(needed)} ({said})"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("invoices close --period 2026-10", "no command invoices"),
        ("invoice close --month 2026-10", "close has no --month"),
        ("invoice close 2026-10", "close does not take 2026-10"),
        ("held expire --ids ID", "expire needs --ids, --why"),
    ],
)
def test_a_command_that_would_not_run_is_found(line: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        _assert_complete(*_assert_command(line.split()))


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_pages_that_the_code_names_exist(file: Path) -> None:
    for path in re.findall(r"docs/[\w/-]+\.md", text_of(file)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", generate.PAGES)
def test_what_is_written_from_the_code_is_current(name: str) -> None:
    assert text_of(generate.REFERENCE / name) == generate.PAGES[name](), "run `make docs`"


EXAMPLES: Final[dict[str, type[msgspec.Struct]]] = {
    contracts.USAGE_EVENTS: contracts.UsageEvent,
    contracts.USAGE_RECORDED: contracts.UsageRecorded,
    contracts.SUBSCRIPTION_STATUS: contracts.SubscriptionStatus,
    contracts.BILLING_EVENTS: contracts.BillingEvent,
}


@pytest.mark.parametrize("topic", EXAMPLES)
def test_the_examples_are_messages(topic: str) -> None:
    (example,) = code_blocks(text_of(DOCS / "reference" / "contracts.md"), f"json {topic}")
    decoded = msgspec.json.decode(example, type=EXAMPLES[topic])
    assert _within(json.loads(example), json.loads(contracts.encode(decoded))), (
        "a field of the example is not in the contract"
    )


def _within(example: Any, message: Any) -> bool:
    """Tell whether all that an example says is in the message that was decoded from it."""
    if isinstance(example, dict):
        return all(key in message and _within(value, message[key]) for key, value in example.items())
    if isinstance(example, list):
        return len(example) == len(message) and all(map(_within, example, message))
    return bool(example == message)


@pytest.mark.parametrize(
    ("name", "kind"), [("usage.events", contracts.UsageEvent), ("usage.void", VoidEvent), ("usage.amend", AmendEvent)]
)
def test_the_example_of_an_event_is_accepted(
    name: str, kind: type[contracts.UsageEvent | VoidEvent | AmendEvent]
) -> None:
    (example,) = code_blocks(text_of(DOCS / "reference" / "contracts.md"), f"json {name}")
    now = msgspec.json.decode(example, type=kind).time
    limits = Limits()
    assert isinstance(accept(example.encode(), (), limits, *limits.window(now)), kind)


def test_every_topic_and_every_reason_is_explained() -> None:
    topics = [
        value
        for name, value in vars(contracts).items()
        if not name.startswith("_") and isinstance(value, str) and re.fullmatch(r"[a-z]+\.[a-z-]+", value)
    ]
    page = text_of(DOCS / "reference" / "contracts.md")
    assert [topic for topic in topics if f"| `{topic}` |" not in page] == []
    explained = re.findall(r"^\| `(\w+)` \|", text_of(DOCS / "reference" / "quarantine.md"), re.MULTILINE)
    assert set(explained) == {reason.value for reason in Reason}


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page.suffix == ".md" and page not in reached and page.exists():
            reached.add(page)
            links = re.findall(r"\]\(([^)\s#]+)", without_code_blocks(text_of(page)))
            ahead += [(page.parent / link).resolve() for link in links if not link.startswith("http")]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached] == []
