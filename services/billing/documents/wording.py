"""The words of documents in the languages that customers may have: English in the code, the others from `locale/*.po`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

LANGUAGES: Final = ("en", "de", "fr")
DOCUMENTS: Final = "services.billing.documents"


class Wording:
    """Translates into one language, by the first catalogue that knows a text. What has no translation stays English."""

    def __init__(self, language: str, packages: Sequence[str] = (DOCUMENTS,)) -> None:
        self.language = language
        self._catalogs = [] if language == "en" else [catalog(language, package) for package in packages]

    def __call__(self, text: str, **values: object) -> str:
        """Return a text in this language, its `{names}` filled in."""
        found = (message.string for each in self._catalogs if (message := each.get(text)))
        translated = next((string for string in found if isinstance(string, str) and string), text)
        return translated.format(**values) if values else translated


@cache
def catalog(language: str, package: str = DOCUMENTS) -> Catalog:
    """Read a package's translations into a language."""
    with files(package).joinpath("locale", f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


@cache
def wording(language: str) -> Wording:
    """Return what translates into a language; one that is not known is English."""
    return Wording(language if language in LANGUAGES else "en")
