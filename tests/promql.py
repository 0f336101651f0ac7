"""Which series an expression of PromQL asks for: as much of the language as our rules and dashboards use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_RECORDED: Final = re.compile(r"\b\w+:\w+:\w+\b")
_EXPOSED: Final = re.compile(r"\b((?:tallystick|usage|process)_\w+|up)\b(?!\s*\()(?:\{([^}]*)\})?")


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the exposed series of an expression with the labels that are asked of them."""
    for name, matchers in _EXPOSED.findall(_RECORDED.sub("", expression)):
        yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def recorded(expression: str) -> set[str]:
    """Return the series of an expression that a rule records."""
    return set(_RECORDED.findall(expression))
