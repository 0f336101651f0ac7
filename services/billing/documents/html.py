"""Documents as HTML: one self-contained page that needs nothing from elsewhere, to be read, sent or printed."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from services.billing.documents.view import View


def render_html(view: View, *, logo: str | None = None) -> str:
    """Return a page. `logo` is the address of an image, or a `data:` URL. All texts are escaped."""
    return _template().render(view=view, logo=logo)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("services.billing.documents"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("document.html")
