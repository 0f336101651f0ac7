"""The words of pages, in the languages of invoices: English in the code, the others from `locale/*.po`, then from the invoices' own."""

from __future__ import annotations

from functools import cache
from typing import Final

from fastapi import Request

from services.api.console.cookies import jar_of
from services.billing.documents.wording import LANGUAGES, Wording

NAMES: Final = {"en": "English", "de": "Deutsch", "fr": "Français"}


def N_(text: str) -> str:  # noqa: N802 (as gettext calls it)
    """Mark a text that is translated where it is shown."""
    return text


@cache
def words_of(language: str) -> Wording:
    """Return what translates pages into a language; one that is not known is English."""
    return Wording(
        language if language in LANGUAGES else "en",
        packages=("services.api.console", "services.api.console.pages.operator", "services.billing.documents"),
    )


def language_of(request: Request) -> str:
    """Return the language that was chosen here, else the first of the browser's that there is."""
    chosen = jar_of(request).get("language")
    if chosen in LANGUAGES:
        return chosen
    for part in request.headers.get("accept-language", "").split(","):
        wanted = part.partition(";")[0].strip()[:2].lower()
        if wanted in LANGUAGES:
            return wanted
    return "en"
