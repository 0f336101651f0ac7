"""Documents as files: rendered beside the event loop, a few at a time; what renders is an extra that may not be there."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi.responses import Response

from services.api.problems import NOT_ACCEPTABLE, Problem

if TYPE_CHECKING:
    from services.billing.documents.rendering import Document
    from services.billing.documents.rendering import Form as BillingForm

Form = Literal["pdf", "html", "e-invoice"]

RENDERED_AT_ONCE: Final = 2
_RENDERERS: Final = ThreadPoolExecutor(RENDERED_AT_ONCE, thread_name_prefix="render")


@dataclass(frozen=True, slots=True)
class _Kind:
    form: BillingForm
    media_type: str
    suffix: str


_KINDS: Final[dict[Form, _Kind]] = {
    "pdf": _Kind("pdf", "application/pdf", "pdf"),
    "html": _Kind("html", "text/html; charset=utf-8", "html"),
    "e-invoice": _Kind("xml", "application/xml", "xml"),
}
# The page has its style within it and needs nothing from elsewhere; the API's own policy would leave it bare.
_OF_A_PAGE: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The document.",
        "content": {
            kind.media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
            for kind in _KINDS.values()
        },
    }
}


async def as_file(document: Document, form: Form, *, current: bool) -> Response:
    """Return a document as a file. Raises `Problem` (406) where the extra is missing, `EInvoiceIncomplete` where facts are."""
    try:
        from services.billing.documents.rendering import render  # noqa: PLC0415 (an extra, and slow to import)
    except ImportError as error:
        raise Problem(
            NOT_ACCEPTABLE,
            f"this server cannot render documents: it lacks {error.name}; its operator runs pip install 'tallystick[documents]'",
        ) from None
    kind = _KINDS[form]

    def rendered() -> bytes:
        [content] = render(document, kind.form, current=current)
        return content

    content = await asyncio.get_running_loop().run_in_executor(_RENDERERS, rendered)
    name = document.number or f"draft-{document.id}"
    headers = {"Content-Disposition": f'inline; filename="{name}.{kind.suffix}"'}
    if form == "html":
        headers["Content-Security-Policy"] = _OF_A_PAGE
    return Response(content, headers=headers, media_type=kind.media_type)
