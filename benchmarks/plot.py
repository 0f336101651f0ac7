"""The rates of those who take turns, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_BAR, _LEFT, _WIDTH, _ROW = 420, 190, 720, 34


def plot(copy: Mapping[str, Mapping[str, Any]]) -> str:
    """Return bars of the rates as SVG, with a line at raw COPY."""
    most = max(one["events_per_second"] for one in copy.values())
    limit = copy["raw COPY"]["events_per_second"]
    height = _ROW * len(copy) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="14" role="img">',
        "<title>Events a second: raw COPY, Tallystick and its peers</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, one) in enumerate(copy.items()):
        top, rate = 12 + number * _ROW, one["events_per_second"]
        length = max(1, round(_BAR * rate / most))
        colour = "#0b6e4f" if name == "ours" else "#9aa5b1"
        parts += [
            f'<text x="{_LEFT - 10}" y="{top + 16}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{length}" height="22" fill="{colour}"/>',
            f'<text x="{_LEFT + length + 6}" y="{top + 16}">{rate:,.0f} ({rate / limit:.2f})</text>',
        ]
    at = _LEFT + round(_BAR * limit / most)
    parts.append(f'<line x1="{at}" y1="4" x2="{at}" y2="{height - 18}" stroke="#c0392b" stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</svg>", ""])
