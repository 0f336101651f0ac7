"""The words of documents in the languages that customers may have: English in the code, the others from `locale/*.po`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

LANGUAGES: Final = ("en", "de", "fr")


class Wording:
    """Translates into one language. What has no translation stays English."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._catalog = None if language == "en" else catalog(language)

    def __call__(self, text: str, **values: object) -> str:
        """Return a text in this language, its `{names}` filled in."""
        message = self._catalog.get(text) if self._catalog else None
        translated = message.string if message and isinstance(message.string, str) and message.string else text
        return translated.format(**values) if values else translated


@cache
def catalog(language: str) -> Catalog:
    """Read the translations into a language."""
    with files("services.billing.documents").joinpath("locale", f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


@cache
def wording(language: str) -> Wording:
    """Return what translates into a language; one that is not known is English."""
    return Wording(language if language in LANGUAGES else "en")
