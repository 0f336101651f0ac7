"""Every text of the console has a translation, and each says the same values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from services.api.console.rendering import TITLES
from services.api.console.wording import words_of
from services.api.problems import KINDS
from services.billing.documents.wording import DOCUMENTS, LANGUAGES, catalog

CONSOLE = Path("services/api/console")
OWN = ("services.api.console", "services.api.console.pages.operator")
PACKAGES = (*OWN, DOCUMENTS)
TEXT = r'"((?:[^"\\]|\\.)*)"'
IN_TEMPLATES = re.compile(rf"""\b_\((?:{TEXT}|'([^']*)')""")
IN_CODE = re.compile(rf"\b(?:N_|_|words|said)\(\s*{TEXT}")
STATES = (
    "draft", "sent", "partially paid", "paid", "overdue", "cancelled", "active", "trialing", "paused", "suspended", "expired",
    "pending", "processing", "completed", "failed", "refunded",
    "purchase", "usage", "debit", "refund", "bonus", "promotional", "adjustment", "admin adjustment", "allowance", "expiry", "reversal",
    "owed settlement",
)  # fmt: skip
"""What badges show: states of invoices, subscriptions and payments, kinds of entries of the ledger."""
OTHERS = [language for language in LANGUAGES if language != "en"]


def texts_of(root: Path) -> Iterator[str]:
    """Each text of templates and modules that is translated."""
    for path in sorted(root.rglob("*.html")):
        for text in map("".join, IN_TEMPLATES.findall(path.read_text())):
            if f'_("{text}" +' not in path.read_text():  # what follows is part of it: listed below
                yield text
    for path in sorted(root.rglob("*.py")):
        yield from IN_CODE.findall(path.read_text())
    yield from (f"of the {what}" for what in ("requests", "tokens"))
    yield from STATES
    yield from (kind.title for kind in KINDS)
    yield from TITLES.values()


def missing_in(root: Path, language: str) -> list[str]:
    """The texts without a translation into a language, by the console's or the invoices' catalogue."""
    catalogs = [catalog(language, package) for package in PACKAGES]
    return sorted({text for text in texts_of(root) if not any((m := each.get(text)) and m.string for each in catalogs)})


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_of_the_console_is_translated(language: str) -> None:
    assert missing_in(CONSOLE, language) == []


def test_a_text_without_a_translation_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<h1>{{ _("Nobody translated this") }}</h1>')
    (tmp_path / "page.py").write_text('NAV = NavItem("/", N_("Nor this"), "tenant")')
    assert {"Nobody translated this", "Nor this"} <= set(missing_in(tmp_path, "de"))


def doubtful_in(catalogs: Iterable[Catalog]) -> list[str]:
    """The texts whose translation is marked as a guess."""
    return [str(message.id) for each in catalogs for message in each if message.id and message.fuzzy]


@pytest.mark.parametrize("language", OTHERS)
def test_no_translation_is_a_guess(language: str) -> None:
    assert doubtful_in(catalog(language, package) for package in PACKAGES) == []


def test_a_guess_is_found() -> None:
    guessed = read_po(BytesIO(b'#, fuzzy\nmsgid "Balance"\nmsgstr "Waage"\n'), locale="de")
    assert doubtful_in([guessed]) == ["Balance"]


@pytest.mark.parametrize("language", OTHERS)
def test_translations_say_the_values_that_the_text_says(language: str) -> None:
    for message in (message for package in OWN for message in catalog(language, package)):
        if message.id:
            names = re.findall(r"\{(\w+)\}", str(message.id))
            assert sorted(re.findall(r"\{(\w+)\}", str(message.string))) == sorted(names), message.id


def test_what_is_not_known_stays_as_it_is() -> None:
    assert words_of("de")("a name of somebody") == "a name of somebody"
    assert words_of("xx")("Balance") == "Balance"
