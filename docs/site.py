"""Makes a site of what is written to be read in the repository: a hook of MkDocs, see mkdocs.yml.

The pages are Markdown as GitHub reads it, with links into the repository. For the site they are put in order, pages
from outside docs/ are taken in, links to other files of the repository become their names, and lists are indented as
Python-Markdown asks for.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
MOVED: Final = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "deploy/README.md": "operating.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/runbooks/README.md": "runbooks/index.md",
    "docs/decisions/README.md": "decisions/index.md",
}
"""Where pages are in the site that are not where they are in docs/. An index is the page of its section."""
SECTIONS: Final = {
    "Tutorial": "tutorial",
    "How-to guides": "how-to",
    "Reference": "reference",
    "Explanation": "explanation",
    "Runbooks": "runbooks",
    "Decisions": "decisions",
    "Reports": "reports",
}
API: Final = "reference/http-in-detail.md"
_API_PAGE: Final = """\
# The HTTP API in detail

Every endpoint with its parameters, bodies and answers, from [openapi.json](openapi.json). [The HTTP API](http.md) is the short list.

<swagger-ui src="openapi.json"/>
"""
_FENCE: Final = re.compile(r"^( *)```")
_ITEM: Final = re.compile(r"^(?P<indent> *)(?P<marker>[-*]|\d+\.) +")
_LINK: Final = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages in the order in which docs/README.md and the indexes of sections name them."""
    config.nav = navigation()
    return config


def navigation() -> list[Any]:
    """Return the navigation: the kinds of documentation, the how-to guides in groups, and each page once."""
    nav: list[Any] = [{"Tallystick": ["index.md", "contents.md", "operating.md", "changelog.md", "contributing.md"]}]
    for title, folder in SECTIONS.items():
        pages = [] if folder == "how-to" else _named_in("docs/README.md", folder)
        pages = [page for page in _named_in(f"docs/{folder}/README.md", folder) if page not in pages] or pages
        groups = _groups() if folder == "how-to" else []
        known = {*pages, *(page for group in groups for page in next(iter(group.values())))}
        rest = [page for page in _all_in(folder) if page not in known]
        index = [f"{folder}/index.md"] if f"docs/{folder}/README.md" in MOVED else []
        api = [API] if folder == "reference" else []
        nav.append({title: [*index, *pages, *api, *groups, *rest]})
    return nav


def _all_in(folder: str) -> list[str]:
    return sorted(f"{folder}/{page.name}" for page in (ROOT / "docs" / folder).glob("*.md") if page.name != "README.md")


def _named_in(page: str, folder: str, text: str | None = None) -> list[str]:
    """Return the pages of a folder that a page links to, or its part `text`, in order."""
    if text is None:
        text = (ROOT / page).read_text(encoding="utf-8") if (ROOT / page).exists() else ""
    paths = (_path_of(found["target"], page)[0] for found in _LINK.finditer(text))
    named = [
        path.removeprefix("docs/") for path in paths if path.startswith(f"docs/{folder}/") and path.endswith(".md")
    ]
    return list(dict.fromkeys(name for name in named if not name.endswith("README.md")))


def _groups() -> list[dict[str, list[str]]]:
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^##+ (.*)$", contents, flags=re.MULTILINE)
    groups = []
    seen: set[str] = set()
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        pages = [page for page in _named_in("docs/README.md", "how-to", text) if page not in seen]
        seen.update(pages)
        if pages:
            groups.append({title: pages})
    return groups


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pages from outside docs/, and the one that shows the API."""
    for origin, path in MOVED.items():
        if origin.startswith("docs/") and (file := files.get_file_from_path(origin.removeprefix("docs/"))):
            files.remove(file)
        files.append(File.generated(config, path, content=(ROOT / origin).read_text(encoding="utf-8")))
    files.append(File.generated(config, API, content=_API_PAGE))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Return the page's text as Python-Markdown reads it, with links that lead somewhere in the site."""
    path = page.file.src_uri
    origin = next((origin for origin, moved in MOVED.items() if moved == path), f"docs/{path}")
    return in_the_site(re.sub(r"\A<!--.*?-->\n", "", markdown), origin, path)  # a comment would hide the title


def in_the_site(markdown: str, origin: str, path: str) -> str:
    """Return what the site makes of the text of `origin`, a path in the repository, whose page is `path`."""

    def link(found: re.Match[str]) -> str:
        text, target = found["text"], found["target"]
        if inner := _LINK.search(text):  # a picture that is a link
            text = text.replace(inner[0], link(inner))
        if re.match(r"\w+:|#", target):
            return f"{found['image']}[{text}]({target})"
        linked, anchor = _path_of(target, origin)
        if linked not in MOVED and not linked.startswith("docs/") and (ROOT / linked).exists():
            return text if text.startswith("`") else f"{text} (`{linked}`)"
        there = MOVED.get(linked, linked.removeprefix("docs/"))
        return f"{found['image']}[{text}]({posixpath.relpath(there, posixpath.dirname(path) or '.')}{anchor})"

    return "\n".join(_indented(_outside_of_code(markdown, lambda line: _LINK.sub(link, line))))


def _path_of(target: str, origin: str) -> tuple[str, str]:
    """Return the path in the repository that a link on the page `origin` leads to, and its anchor."""
    path, mark, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)) if path else origin, mark + anchor


def _outside_of_code(markdown: str, change: Callable[[str], str]) -> Iterator[str]:
    code = False
    for line in markdown.splitlines():
        code ^= bool(_FENCE.match(line))
        yield line if code or _FENCE.match(line) else change(line)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    """Indent what belongs to an item of a list by four, and part a list from the paragraph before it."""
    inside, code, before = 0, False, ""
    for line in lines:
        item = None if code else _ITEM.match(line)
        if item and not item["indent"]:
            if before.strip() and not inside:
                yield ""
            inside = len(item["marker"]) + 1
            yield line
        else:
            own = len(line) - len(line.lstrip())
            if line.strip() and own < inside and not (before.strip() and own == 0 and _continues(line)):
                inside = 0
            yield " " * 4 + line[inside:] if inside and line.strip() and own >= inside else line
        code ^= bool(_FENCE.match(line))
        before = line


def _continues(line: str) -> bool:
    """Tell whether a line without indent goes on with a list's item, as text does (a heading, table or fence does not)."""
    return not line.startswith(("#", "|", "```", "<", ">"))
