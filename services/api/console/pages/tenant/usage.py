"""The usage explorer: a range, by model, key, feature, …; series, table, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.api_keys.routes import list_api_keys
from services.api.console.forms import Form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.rendering import page
from services.api.console.series import Step, chart_of
from services.api.console.signed_in import Session, Tenant
from services.api.console.wording import N_, words_of
from services.api.paging import Paging
from services.api.state import state_of
from services.api.usage.answers import Analytics, Point, Series
from services.api.usage.routes import read_analytics, read_usage_series
from shared.period import day_start

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/usage", N_("Usage"), "tenant", 20)

Group = Literal["model", "key", "feature", "power_level", "app", "provider"]
Span = Literal["day", "week", "month", "quarter"]
Measure = Literal["requests", "tokens", "errors"]
GROUPS: Final[dict[Group, str]] = {
    "model": N_("Model"),
    "key": N_("API key"),
    "feature": N_("Feature"),
    "power_level": N_("Power level"),
    "app": N_("App"),
    "provider": N_("Provider"),
}
SPANS: Final[dict[Span, tuple[str, int, Step]]] = {
    "day": (N_("Today"), 1, "hour"),
    "week": (N_("7 days"), 7, "day"),
    "month": (N_("30 days"), 30, "day"),
    "quarter": (N_("90 days"), 90, "day"),
}
"""What a range is called, its days, and what each point of its series sums."""
MEASURES: Final[dict[Measure, tuple[str, Callable[[Point], int]]]] = {
    "requests": (N_("Requests"), lambda point: point.request_count),
    "tokens": (N_("Tokens"), lambda point: point.total_tokens),
    "errors": (N_("Errors"), lambda point: point.error_count),
}
"""What the series shows."""

GroupBy = Annotated[Group, Query()]
Range = Annotated[Span, Query(alias="range")]
Measured = Annotated[Measure, Query(alias="of")]


@router.get("/usage")
async def show_usage(
    request: Request,
    session: Tenant,
    group_by: GroupBy = "model",
    span: Range = "month",
    measure: Measured = "requests",
) -> Response:
    """Usage of a range by what it was for."""
    series, analytics = await _read(request, session, group_by, span)
    now, (label, value), step = state_of(request).clock.now(), MEASURES[measure], SPANS[span][2]
    start = _start(span, now)
    names = await _names(request, session) if group_by == "key" else {}
    words, chart = words_of(session.language), chart_of(series.points, step, start, now, value)
    rest = words("others") if chart.has_others else words("not said")
    labels = [names.get(name, name) if name else rest for name in chart.names]
    return await page(
        request,
        session,
        "tenant/usage.html",
        form=Form({"group_by": group_by, "range": span, "of": measure}),
        group=GROUPS[group_by],
        groups=GROUPS,
        spans={name: said for name, (said, _, _) in SPANS.items()},
        measure=label,
        measures={name: said for name, (said, _) in MEASURES.items()},
        chart=chart,
        until=start + timedelta(days=SPANS[span][1]),
        labels=labels,
        columns=[words("Time"), *((label, "num") for label in labels)],
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


async def _read(request: Request, session: Session, group_by: Group, span: Span) -> tuple[Series, Analytics]:
    who, now, (_, days, step) = session.principal, state_of(request).clock.now(), SPANS[span]
    common: Any = {"request": request, "principal": who, "user": who.user_id, "group_by": group_by, "time_zone": "UTC"}
    answer = await read_usage_series(**common, step=step, start=_start(span, now), end=now)
    return Series.model_validate_json(bytes(answer.body)), await read_analytics(**common, days=days)


def _start(span: Span, now: datetime) -> datetime:
    return day_start(now) - timedelta(days=SPANS[span][1] - 1)


async def _names(request: Request, session: Session) -> dict[str, str]:
    """Return what the tenant calls their keys."""
    who = session.principal
    keys = await list_api_keys(request, who, Paging(500), who.user_id, None, True)
    return {str(key.id): key.name or key.key_prefix for key in keys.items}


def _cell(value: Any) -> str:
    """Return a value for a spreadsheet; a text that it would take for a formula with an apostrophe before it."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in "=+-@\t\r" else text
