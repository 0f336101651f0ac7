"""Tables on a phone: a row is a card there, so each cell says the header of its column (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Final

from markupsafe import Markup, escape

Header = str | tuple[str, str]

_ROW_OR_CELL: Final = re.compile(r"<(tr|td|th)(?=[\s>])")


def labelled(rows: Markup, headers: Sequence[Header]) -> Markup:
    """Return the rows of a table with `data-label` at each cell: the text of its column's header, in which a pair has its class second."""
    texts = [header if isinstance(header, str) else header[0] for header in headers]
    left: Iterator[str] = iter(())

    def label(found: re.Match[str]) -> str:
        nonlocal left
        if found[1] == "tr":
            left = chain(texts, repeat(""))
            return found[0]
        return f'{found[0]} data-label="{escape(next(left))}"'

    return Markup(_ROW_OR_CELL.sub(label, str(rows)))  # noqa: S704 (markup already; labels are escaped)
