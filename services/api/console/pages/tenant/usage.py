"""The usage explorer: a range, by model, key, feature, …; series, table, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.api_keys.routes import list_api_keys
from services.api.console.forms import Form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.rendering import page
from services.api.console.signed_in import Session, Tenant
from services.api.console.wording import N_
from services.api.paging import Paging
from services.api.state import state_of
from services.api.usage.answers import Analytics, Point, Series
from services.api.usage.routes import read_analytics, read_usage_series
from shared.period import day_start

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/usage", N_("Usage"), "tenant", 20)

Group = Literal["model", "key", "feature", "power_level", "app", "provider"]
Span = Literal["day", "week", "month", "quarter"]
GROUPS: Final[dict[Group, str]] = {
    "model": N_("Model"),
    "key": N_("API key"),
    "feature": N_("Feature"),
    "power_level": N_("Power level"),
    "app": N_("App"),
    "provider": N_("Provider"),
}
SPANS: Final[dict[Span, tuple[str, int, Literal["hour", "day"]]]] = {
    "day": (N_("Today"), 1, "hour"),
    "week": (N_("7 days"), 7, "day"),
    "month": (N_("30 days"), 30, "day"),
    "quarter": (N_("90 days"), 90, "day"),
}
"""What a range is called, its days, and what each point of its series sums."""
SHOWN: Final = 6
"""Groups that the chart tells apart; the others are one."""

GroupBy = Annotated[Group, Query()]
Range = Annotated[Span, Query(alias="range")]


@dataclass(frozen=True, slots=True)
class Chart:
    """Requests by time and group: the names of the groups, and for each time its values."""

    names: Sequence[str | None]
    rows: Sequence[tuple[datetime, Sequence[int]]]


@router.get("/usage")
async def show_usage(request: Request, session: Tenant, group_by: GroupBy = "model", span: Range = "month") -> Response:
    """Usage of a range by what it was for."""
    series, analytics = await _read(request, session, group_by, span)
    names = await _names(request, session) if group_by == "key" else {}
    return await page(
        request,
        session,
        "tenant/usage.html",
        form=Form({"group_by": group_by, "range": span}),
        group=GROUPS[group_by],
        groups=GROUPS,
        spans={name: said for name, (said, _, _) in SPANS.items()},
        chart=chart_of(series.points),
        step=SPANS[span][2],
        items=sorted(analytics.items, key=lambda item: -item.request_count),
        totals=analytics.totals,
        names=names,
    )


@router.get("/usage.csv")
async def download_usage(
    request: Request, session: Tenant, group_by: GroupBy = "model", span: Range = "month"
) -> Response:
    """The table of the page as CSV, with all digits."""
    _, analytics = await _read(request, session, group_by, span)
    columns = [
        "group", "currency", "request_count", "error_count", "prompt_tokens", "completion_tokens", "cached_tokens", "total_cost",
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([group_by, *columns[1:]])
    for item in analytics.items:
        writer.writerow([_cell(getattr(item, column)) for column in columns])
    name = f"usage-{span}-by-{group_by}.csv"
    return Response(
        out.getvalue(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def chart_of(points: Sequence[Point]) -> Chart:
    """Return requests by time, for the groups with most of them; the rest of the groups is one, without a name."""
    totals: dict[str | None, int] = {}
    for point in points:
        totals[point.group] = totals.get(point.group, 0) + point.request_count
    biggest = sorted(totals, key=lambda name: -totals[name])[:SHOWN]
    names: list[str | None] = [*biggest, *([None] if len(totals) > len(biggest) and None not in biggest else [])]
    rows: dict[datetime, list[int]] = {}
    for point in points:
        values = rows.setdefault(point.start, [0] * len(names))
        values[names.index(point.group if point.group in names else None)] += point.request_count
    return Chart(names, sorted(rows.items()))


async def _read(request: Request, session: Session, group_by: Group, span: Span) -> tuple[Series, Analytics]:
    who, now, (_, days, step) = session.principal, state_of(request).clock.now(), SPANS[span]
    common: Any = {"request": request, "principal": who, "user": who.user_id, "group_by": group_by, "time_zone": "UTC"}
    start = day_start(now) - timedelta(days=days - 1)
    answer = await read_usage_series(**common, step=step, start=start, end=now)
    return Series.model_validate_json(bytes(answer.body)), await read_analytics(**common, days=days)


async def _names(request: Request, session: Session) -> dict[str, str]:
    """Return what the tenant calls their keys."""
    who = session.principal
    keys = await list_api_keys(request, who, Paging(500), who.user_id, None, True)
    return {str(key.id): key.name or key.key_prefix for key in keys.items}


def _cell(value: Any) -> str:
    """Return a value for a spreadsheet; a text that it would take for a formula with an apostrophe before it."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in "=+-@\t\r" else text
