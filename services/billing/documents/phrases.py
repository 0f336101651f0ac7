"""What charges and credits are called in the customer's language (pure). Lines keep them as they were written, in English; a document
says their dates below, in the customer's notation."""

from __future__ import annotations

import re
from typing import Final

from services.billing.documents.wording import Wording

_DAY: Final = r"\d{1,2} [A-Z][a-z]+ \d{4}"
_DAYS: Final = rf"{_DAY} to {_DAY}"
PHRASES: Final = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"Credit carried over to the next invoice", "Credit carried over to the next invoice"),
        (r"Credit carried over from (?P<number>\S+)", "Credit carried over from {number}"),
        (r"Credit: (?P<name>.+)", "Credit: {name}"),
        (rf"Credit for (?P<name>.+), unused {_DAYS}", "Credit for {name}, unused"),
        (rf"Usage included in (?P<name>.+), {_DAYS}", "Usage included in {name}"),
        (
            rf"(?P<name>.+): (?P<count>\S+) (?P<meter>.+) beyond (?P<included>\S+) included, {_DAYS}",
            "{name}: {count} {meter} beyond {included} included",
        ),
        (rf"(?P<name>.+): minimum of (?P<amount>\S+ [A-Z]{{3}}), {_DAYS}", "{name}: minimum of {amount}"),
        (r"(?P<name>.+): (?P<off>\S+ (?:%|[A-Z]{3})) off (?P<what>.+)", "{name}: {off} off {what}"),
        (rf"(?P<what>.+), {_DAYS} \(prorated\)", "{what} (prorated)"),
        (rf"(?P<what>.+, {_DAYS}) \(late usage\)", "{what} (late usage)"),
        (rf"(?P<name>.+), (?:from {_DAY}|{_DAYS})", "{name}"),
    )
)
"""How descriptions are written, and the text that a document has for each; the first that fits counts."""


def phrase(words: Wording, description: str) -> str:
    """Return a line's description in a language; one of no known form as it is."""
    for pattern, text in PHRASES:
        if found := pattern.fullmatch(description):
            parts = found.groupdict()
            if "what" in parts:
                parts["what"] = phrase(words, parts["what"])
            return words(text, **parts)
    return description
