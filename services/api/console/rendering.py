"""Makes pages of templates: the frame, the words and notations of a language, what somebody sees of the navigation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final, Literal
from urllib.parse import quote, unquote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from services.api.console.assets import asset
from services.api.console.cookies import jar_of
from services.api.console.formats import Formats, spelt
from services.api.console.forms import Form
from services.api.console.navigation import NavItem, shown_to
from services.api.console.signed_in import Session, csrf_token
from services.api.console.stacking import labelled
from services.api.console.wording import NAMES, language_of, words_of
from services.api.problems import Problem
from services.api.state import state_of
from services.billing.documents.phrases import phrase

TITLES: Final = {"tenant": "My account", "finance": "Finance", "operator": "Operation"}


async def page(
    request: Request, session: Session | None, template: str, *, status: int = 200, **context: Any
) -> HTMLResponse:
    """Return a template as a page; as its content alone where htmx asks for that. `session` None: for somebody who is not signed in."""
    language = session.language if session else language_of(request)
    jar = jar_of(request)
    words, query = words_of(language), dict(request.query_params)
    kind, _, said = unquote(jar.get("flash")).partition(":")
    jar.forget("flash")
    csrf = csrf_token(jar)
    html = _environment(language).get_template(template).render(
        {
            "layout": "_fragment.html" if fragment(request) else "base.html",
            "session": session, "language": language, "languages": NAMES, "path": request.url.path, "query": query,
            "nav": shown_to(session.principal, navigation()) if session else {}, "parts": TITLES,
            "flash": {"kind": kind, "text": said} if said else None, "now": state_of(request).clock.now(),
            "csrf": Markup('<input type="hidden" name="csrf" value="{}">').format(csrf), "form": Form(),
            "phrase": lambda text: phrase(words, text),
            "here": lambda **changes: _here(request.url.path, {**query, **changes}),
            **context,
        }
    )  # fmt: skip
    return HTMLResponse(html, status)


def fragment(request: Request) -> bool:
    """Tell whether htmx asks for the content of a page without its frame."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-boosted") != "true"


def flash(request: Request, text: str, kind: Literal["good", "bad"] = "good") -> None:
    """Let the next page say something, once."""
    jar_of(request).put("flash", quote(f"{kind}:{text}"[:500]))


async def confirm(
    request: Request,
    session: Session,
    form: Form,
    *,
    title: str,
    facts: list[tuple[str, str]],
    action: str,
    button: str,
    back: str,
    danger: bool = False,
    warning: str = "",
) -> HTMLResponse:
    """Show what an action will do before it is done: its form comes again, to `action`, with all that was typed."""
    return await page(
        request, session, "confirm.html", title=title, facts=facts, action=action, button=button, back=back, danger=danger,
        warning=warning, form=form,
    )  # fmt: skip


async def error_page(request: Request, problem: Problem) -> HTMLResponse:
    """Return the page that says what a problem is, and what to do about it."""
    session = request.scope["state"].get("console_session")
    found = await page(request, session, "error.html", status=problem.kind.status, problem=problem)
    for name, value in (problem.headers or {}).items():
        found.headers[name] = value
    return found


@cache
def navigation() -> tuple[NavItem, ...]:
    """Return what the page modules declare as their `NAV`."""
    found = []
    for package in ("tenant", "operator"):
        where = import_module(f"services.api.console.pages.{package}")
        for module in iter_modules(where.__path__, f"{where.__name__}."):
            item = getattr(import_module(module.name), "NAV", None)
            found += [item] if item else []
    return tuple(found)


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("services.api.console", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update({"_": words_of(language), "asset": asset, "url": _url})
    filters: dict[str, Callable[..., str]] = {**Formats(language).filters(), "spelt": spelt}
    environment.filters.update(filters)
    environment.filters["labelled"] = labelled
    environment.filters["translated"] = lambda texts: [(key, words_of(language)(text)) for key, text in texts.items()]
    return environment


def _url(path: str, **query: Any) -> str:
    """Return the address of a page of the console, each part of which is a path already."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"/console{path}" + (f"?{urlencode(given)}" if given else "")


def _here(path: str, query: dict[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return path + (f"?{urlencode(given)}" if given else "")
