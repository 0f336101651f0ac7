"""The code of the documentation, taken out of its pages: blocks, the commands that a reader types, the SQL among them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted([*ROOT.glob("*.md"), ROOT / "deploy" / "README.md", *(ROOT / "docs").rglob("*.md")])
SHELL: Final = {"bash", "sh", "console"}
COMMANDS: Final = ("tallystick ", "psql ", "curl ")
_FENCED: Final = re.compile(
    r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```$\n?", re.DOTALL | re.MULTILINE
)
_HEREDOC: Final = re.compile(r"<<-?\s*'?(\w+)'?(?P<rest>[^\n]*)\n.*?^\1$", re.DOTALL | re.MULTILINE)
_SUBSTITUTED: Final = re.compile(r"\$\(([^()]*)\)")
_ENDS_A_COMMAND: Final = re.compile(r"[;&|()\n]+")


@dataclass(frozen=True)
class Block:
    """A fenced block: what its opening fence says (empty, `json`, `json usage.events`, …), and its text without indent."""

    info: str
    body: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page of Markdown, in order."""
    return [Block(found["info"].strip(), dedent(found["body"])) for found in _FENCED.finditer(page)]


def without_code_blocks(page: str) -> str:
    """Return the page without its fenced blocks."""
    return _FENCED.sub("", page)


def script_of(block: Block) -> str:
    """Return what a reader types of a block in a shell.

    That is what follows `$ ` where a line begins so: the rest is what the shell answers. In blocks of a shell it is
    else all of it; in blocks without a language the lines that begin with one of COMMANDS.
    """
    typed, goes_on, shell = [], False, block.language in SHELL
    prompts = re.search(r"^\$ ", block.body, re.MULTILINE)
    for line in block.body.splitlines():
        if goes_on or (line.startswith("$ ") if prompts else shell or line.startswith(COMMANDS)):
            typed.append(line.removeprefix("$ "))
            goes_on = line.endswith("\\")
    return "\n".join(typed) + "\n"


def commands_of(script: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a script, those in `$(…)` first, without redirections and `NAME=value` before it.

    Not all of a shell's grammar, but what the pages use of it. Raises ValueError for a quotation that does not end.
    """
    script = _HEREDOC.sub(lambda found: found["rest"], script).replace("\\\n", " ")
    while inner := _SUBSTITUTED.search(script):
        yield from commands_of(inner[1])
        script = f"{script[: inner.start()]}SUBSTITUTED{script[inner.end() :]}"
    lexer = shlex.shlex(script, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in [*_without_comments(lexer), "\n"]:
        if not _ENDS_A_COMMAND.fullmatch(word):
            words.append(word)
        elif words:
            yield _simple(words)
            words = []


def _without_comments(words: Iterator[str]) -> Iterator[str]:
    comment = False
    for word in words:
        comment = (comment or word.startswith("#")) and "\n" not in word
        if not comment:
            yield word


def _simple(words: list[str]) -> list[str]:
    redirected = next((at for at, word in enumerate(words) if set(word) <= set("<>&")), len(words))
    words = words[:redirected]
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    return words


def sql_of(page: str) -> Iterator[str]:
    """Yield the SQL of a page: its sql blocks, and what it gives to psql with -c."""
    for block in blocks_of(page):
        if block.language == "sql":
            yield block.body
        for words in commands_of(script_of(block)):
            if "psql" in words[:1]:
                yield from (words[at + 1] for at, word in enumerate(words[:-1]) if word == "-c")
