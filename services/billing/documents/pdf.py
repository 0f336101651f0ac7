"""Documents as PDF/A-3, with their e-invoice inside (Factur-X). The same document gives the same bytes, on every machine.

Fonts come with the package, not from the machine: Source Sans, and DejaVu Sans for letters that it lacks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import font_source_sans_pro
import msgspec
import typst

from services.billing.documents.view import View
from services.billing.documents.xmp import declare_factur_x

STANDARD: Final = "a-3b"


def render_pdf(view: View, *, at: datetime, einvoice: bytes | None = None, logo: Path | None = None) -> bytes:
    """Return a document as PDF. `at` is the time that it states as its making; `logo` a PNG, JPEG or SVG file."""
    inputs = {"view": msgspec.json.encode(view).decode()}
    if einvoice is not None:
        inputs["einvoice"] = einvoice.decode()
    if logo is not None:
        inputs["logo"] = "/" + logo.name
    root = str(logo.resolve().parent) if logo is not None else None
    made = _compiler().compile(
        _source(), format="pdf", sys_inputs=inputs, pdf_standards=[STANDARD], root=root, timestamp=_second(at)
    )
    pdf = made[0] if isinstance(made, list) else made or b""  # one file, whatever the number of pages
    return declare_factur_x(pdf) if einvoice is not None else pdf


def render_png(view: View, *, at: datetime, ppi: float = 96) -> list[bytes]:
    """Return the pages as pictures."""
    inputs = {"view": msgspec.json.encode(view).decode()}
    made = _compiler().compile(_source(), format="png", sys_inputs=inputs, ppi=ppi, timestamp=_second(at))
    return made if isinstance(made, list) else [made] if made is not None else []


@cache
def _source() -> bytes:
    return files("services.billing.documents").joinpath("templates", "document.typ").read_bytes()


@cache
def _compiler() -> typst.Compiler:
    """Return a compiler that knows our fonts only; it keeps them in memory."""
    source_sans = Path(font_source_sans_pro.__file__).parent / "files"
    with as_file(files("services.billing.documents").joinpath("fonts")) as ours:
        fonts = typst.Fonts(
            include_system_fonts=False,
            include_embedded_fonts=False,
            font_paths=[str(source_sans), str(ours)],
        )
    return typst.Compiler(font_paths=fonts)


def _second(at: datetime) -> datetime:
    """Return a time as PDF states it: to the second, in UTC."""
    return at.astimezone(UTC).replace(microsecond=0)
