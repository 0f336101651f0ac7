"""An SQL script as a list of statements that know their line, so that an error can name the line it is on. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPAQUE_OR_END = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<text>    \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<body>    (?<![\w$]) (?P<tag> \$ (?:[A-Za-z_]\w*)? \$ ) .*? (?P=tag) )
    | (?P<atomic>  \bBEGIN\s+ATOMIC\b )
    | (?P<end>     ; )
    """,
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
_BLANK_OR_COMMENT = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon, and the line of the script on which it begins, counted from 1."""

    text: str
    line: int

    def line_at(self, position: int | None) -> int:
        """The line of the script for a character position in the statement, counted from 1 as Postgres reports it."""
        return self.line if position is None else self.line + self.text.count("\n", 0, position - 1)


def split(script: str) -> Iterator[Statement]:
    """The statements of a script, in order. Semicolons in strings, comments and dollar-quoted bodies do not end one.

    Raises `ValueError` for a body of the form BEGIN ATOMIC … END, whose semicolons only a full parser could tell apart.
    """
    start = 0
    for token in _OPAQUE_OR_END.finditer(script):
        if token["atomic"]:
            line = script.count("\n", 0, token.start()) + 1
            raise ValueError(f"line {line}: BEGIN ATOMIC is not supported, write the body between dollar quotes")
        if token["end"]:
            yield from _statement(script, start, token.start())
            start = token.end()
    yield from _statement(script, start, len(script))


def _statement(script: str, start: int, end: int) -> Iterator[Statement]:
    blank = _BLANK_OR_COMMENT.match(script, start, end)
    first = blank.end() if blank else start
    if first < end:
        yield Statement(script[first:end].rstrip(), script.count("\n", 0, first) + 1)
