"""The documentation as a site: it builds without a warning, its links lead somewhere, and it asks no other server for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs.site import in_the_site, navigation

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""The attribute by which each element makes a browser fetch something."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).with_name("mkdocs")), "build", "--strict", "--site-dir", str(directory)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    return directory


@dataclass
class Html(HTMLParser):
    """What a page links to, fetches and can be linked at, and its text outside of code."""

    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    text: str = ""
    _code: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.update({given.get("id", ""), given.get("name", "")})
        if (source := given.get(LOADED.get(tag, ""))) and given.get("rel") not in {"canonical", "prev", "next"}:
            self.fetched.append(source)
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])
        self._code += tag in {"code", "pre", "script", "style", "title"}

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in {"code", "pre", "script", "style", "title"}

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text += data


@cache
def read(page: Path) -> Html:
    parser = Html()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def elsewhere(directory: Path) -> Iterator[str]:
    """Yield what pages, styles and pictures would fetch from other servers."""
    for page in directory.rglob("*.html"):
        yield from (f"{page.name}: {url}" for url in read(page).fetched if urlsplit(url).netloc)
    for style in [*directory.rglob("*.css"), *directory.rglob("*.svg")]:
        urls = re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", style.read_text(encoding="utf-8"))
        yield from (f"{style.name}: {url}" for url in urls)


def dead_links(directory: Path) -> Iterator[str]:
    """Yield links and sources within the site that lead nowhere."""
    pages = {page.resolve(): read(page) for page in directory.rglob("*.html")}
    for page, html in pages.items():
        for link in [*html.links, *html.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            start = directory if parts.path.startswith("/") else page.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{page.name}: {link}"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{page.name}: {link} has no such heading"


def test_the_site_asks_no_other_server_for_anything(site: Path) -> None:
    assert list(elsewhere(site)) == []
    # Material fetches Mermaid from elsewhere for a page that has a diagram in its language.
    assert [page.name for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text(encoding="utf-8")] == []


def test_no_link_is_dead(site: Path) -> None:
    assert list(dead_links(site)) == []


def test_every_page_is_in_the_navigation(site: Path) -> None:
    index = read(site / "index.html").links
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        named = {"README.html": "contents.html"}.get(name, name.replace("README", "index"))
        assert named in index, named


def test_no_markdown_is_left_in_the_text_of_a_page(site: Path) -> None:
    left = re.compile(r"```|\*\*\w|\]\(|\|---|^ *(?:- |\d\. )\w.*\n *(?:- |\d\. )\w", re.MULTILINE)
    found = {page.name: found[0] for page in site.rglob("*.html") if (found := left.search(read(page).text))}
    assert found == {}


def test_the_kinds_of_documentation_are_in_order() -> None:
    titles = [next(iter(section)) for section in navigation()]
    assert titles == [
        "Tallystick",
        "Tutorial",
        "How-to guides",
        "Reference",
        "Explanation",
        "Runbooks",
        "Decisions",
        "Reports",
    ]


def test_the_api_and_the_messages_are_there_for_programs(site: Path) -> None:
    assert (site / "reference" / "openapi.json").exists()
    assert (site / "reference" / "asyncapi.json").exists()
    assert "swagger-ui" in (site / "reference" / "http-in-detail.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[Home](../../README.md#see-it-work)", "[Home](../index.md#see-it-work)"),
        ("[All](../README.md)", "[All](../contents.md)"),
        ("[A page](../explanation/exactly-once.md)", "[A page](../explanation/exactly-once.md)"),
        ("[rules](../../deploy/prometheus/rules.yml)", "rules (`deploy/prometheus/rules.yml`)"),
        ("[`deploy/k8s`](../../deploy/k8s)", "`deploy/k8s`"),
        ("[there](https://example.com) [here](#see)", "[there](https://example.com) [here](#see)"),
        ("```\n[code](../../README.md)\n```", "```\n[code](../../README.md)\n```"),
        ("Words:\n- one\n  more\n- two", "Words:\n\n- one\n    more\n- two"),
        ("1. one\n\n   ```\n   - code\n   ```\n2. two", "1. one\n\n    ```\n    - code\n    ```\n2. two"),
    ],
)
def test_what_is_written_for_the_repository_is_put_as_the_site_asks_for(written: str, shown: str) -> None:
    assert in_the_site(written, "docs/how-to/page.md", "how-to/page.md") == shown


def test_a_dead_link_and_a_font_from_elsewhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html">b</a><a href="#gone">x</a><a href="a.html#here">y</a><p id="here">'
    )
    (tmp_path / "index.html").write_text('<script src="https://cdn.example/x.js"></script><img src="no.svg">')
    (tmp_path / "s.css").write_text("@font-face { src: url(//fonts.example/f.woff2) }")
    assert sorted(dead_links(tmp_path)) == ["a.html: #gone has no such heading", "a.html: b.html", "index.html: no.svg"]
    assert list(elsewhere(tmp_path)) == ["index.html: https://cdn.example/x.js", "s.css: //fonts.example/f.woff2"]
