"""`tallystick render`: invoices and credit notes as files to send."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.operator import plural, with_database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.billing.documents.rendering import Document


class Form(StrEnum):
    """The forms that documents have."""

    pdf = "pdf"
    html = "html"
    xml = "xml"
    png = "png"


def render(
    numbers: Annotated[
        list[str] | None, typer.Argument(metavar="[NUMBER]…", help="Invoices or credit notes, by number or id.")
    ] = None,
    *,
    form: Annotated[
        Form, typer.Option("--format", help="pdf has the e-invoice inside; xml is the e-invoice alone.")
    ] = Form.pdf,
    period: Annotated[
        str | None, typer.Option(metavar="MONTH", help="All invoices issued for a month, such as 2026-10.")
    ] = None,
    to: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Where the files go; made if it is missing.")] = Path(),
    logo: Annotated[Path | None, typer.Option(help="A PNG, JPEG or SVG to be put on PDFs.")] = None,
    current: Annotated[
        bool, typer.Option("--current", help="As they are now, payments and credits included; else as issued.")
    ] = False,
) -> int:
    """Write invoices and credit notes as PDF, HTML, e-invoice (EN 16931) or pictures, in their customer's language.

    The same document as issued gives the same bytes whenever it is rendered. Prints the path of each file.
    """
    try:
        from services.billing.documents.einvoice import missing  # noqa: PLC0415
        from services.billing.documents.rendering import render as rendered  # noqa: PLC0415
    except ImportError as error:
        from shared.errors import ConfigurationError  # noqa: PLC0415

        raise ConfigurationError(f"{error.name} is not installed: pip install 'tallystick[documents]'") from None
    documents = with_database(lambda connection: _read(connection, numbers or [], period))
    if logo is not None:
        logo.open("rb").close()  # said before anything is written
    to.mkdir(parents=True, exist_ok=True)
    incomplete = 0
    for document in _watched(documents):
        for page, content in enumerate(rendered(document, form.value, logo=logo, current=current), start=1):
            file = (
                to / f"{document.number or f'draft-{document.id}'}{f'-{page}' if form is Form.png else ''}.{form.value}"
            )
            file.write_bytes(content)
            typer.echo(str(file))
        incomplete += bool(form is Form.pdf and missing(document))
    if incomplete:
        lacking = ", ".join(dict.fromkeys(fact for document in documents for fact in missing(document)))
        typer.echo(f"{plural(incomplete, 'PDF')} without an e-invoice inside: it needs {lacking}", err=True)
    return 0


async def _read(connection: Any, numbers: Sequence[str], period: str | None) -> list[Document]:
    from services.billing.documents.reading import numbers_of_month, read_document  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    if bool(numbers) == bool(period):
        raise ConfigurationError("name the invoices to render, or a month with --period")
    if period:
        try:
            month = Period.parse_month(period)
        except ValueError as error:
            raise ConfigurationError(f"--period: {error}") from None
        numbers = await numbers_of_month(connection, month)
        if not numbers:
            raise ConfigurationError(f"there is no issued invoice for {period}")
    return [await read_document(connection, number) for number in numbers]


def _watched(documents: Sequence[Document]) -> Any:
    from rich.progress import track  # noqa: PLC0415

    from services.cli.checks import console  # noqa: PLC0415

    if len(documents) < 5:
        return documents
    return track(documents, description="rendering", console=console(stderr=True), transient=True)
