"""docs/reference/events.md shows every event that is announced, as a message that can be decoded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from services.billing.events import EVENT_TYPES
from shared.contracts import BillingEvent

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "events.md"
SECTION: Final = re.compile(
    r"^## `(?P<type>[a-z_.0-9]+)`\n(?P<words>.*?)^```json\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)


def documented() -> dict[str, BillingEvent]:
    """Return the example of each type on the page."""
    return {
        section["type"]: msgspec.json.decode(section["body"], type=BillingEvent)
        for section in SECTION.finditer(PAGE.read_text(encoding="utf-8"))
    }


def test_every_event_is_shown_once_with_its_body() -> None:
    types = [section["type"] for section in SECTION.finditer(PAGE.read_text(encoding="utf-8"))]
    assert sorted(types) == sorted(EVENT_TYPES)
    assert {kind: example.type for kind, example in documented().items()} == {kind: kind for kind in EVENT_TYPES}
