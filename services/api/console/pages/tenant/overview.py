"""The first page: what was used, what it costs, what is left."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.alerts.routes import list_alerts
from services.api.auth.principal import Principal
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.rendering import page
from services.api.console.series import chart_of
from services.api.console.signed_in import Tenant
from services.api.console.wording import N_
from services.api.credits.reading import read_balance
from services.api.invoices.answers import Current, CurrentCost
from services.api.invoices.routes import read_current_cost
from services.api.paging import Paging
from services.api.state import state_of
from services.api.subscriptions.routes import Quota, read_quotas
from services.api.usage.answers import Point, Series
from services.api.usage.routes import read_usage_series
from shared.errors import TallystickError
from shared.period import day_start, month_start

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/", N_("Overview"), "tenant", 10)
DAYS: Final = 30
PRESSING: Final = ("payment_failed", "payment_disputed", "invoice_overdue", "credits_exhausted", "webhook_disabled")
"""Alerts that somebody has to do something about; the others are good to know."""


@router.get("/")
async def show_overview(request: Request, session: Tenant) -> Response:
    """Today, this month, the forecast, the balance, quotas, what there is to know."""
    who, now = session.principal, state_of(request).clock.now()
    since = day_start(now) - timedelta(days=DAYS - 1)
    answer = await read_usage_series(
        request=request, principal=who, user=who.user_id, step="day", start=min(since, month_start(now)), end=now, time_zone="UTC"
    )  # fmt: skip
    series = Series.model_validate_json(bytes(answer.body))
    quotas = await read_quotas(request=request, principal=who, user=who.user_id)
    cost = await current_cost(request, who)
    alerts = await list_alerts(request=request, principal=who, user=who.user_id, paging=Paging(5), unread=True)
    return await page(
        request,
        session,
        "tenant/overview.html",
        chart=chart_of(series.points, "day", since, now),
        today=_sum([point for point in series.points if point.start >= day_start(now)]),
        month=_sum([point for point in series.points if point.start >= month_start(now)]),
        balance=await read_balance(request, who, who.user_id),
        costs=[(each, deductions_in(each)) for each in cost.items] if cost else [],
        quotas=quotas.items,
        rings=[ring for quota in quotas.items for ring in rings_of(quota)][:8],
        alerts=[(alert, alert.type in PRESSING) for alert in alerts.items],
    )


async def current_cost(request: Request, who: Principal) -> Current | None:
    """Return what the month would be invoiced at; None where it cannot be said, such as without an issuer of invoices."""
    try:
        return await read_current_cost(request, who, who.user_id)
    except TallystickError:
        return None


def deductions_in(cost: CurrentCost) -> Decimal:
    """Return what credits, discounts and corrections take off a month: without it, usage that costs something would seem to cost nothing."""
    return -sum((line.amount for line in cost.lines if line.amount < 0), Decimal(0))


def name_of(quota: Quota) -> str:
    """Return what tells a subscription from others of its customer: its plan or model, and the beginning of its id."""
    return " · ".join(each for each in (quota.plan_id or quota.model_id, str(quota.subscription_id)[:8]) if each)


def rings_of(quota: Quota) -> list[tuple[str, str, float, int, int]]:
    """Return each limit of a subscription: whose, what it limits, the share of it that is used, how much that is, and the limit."""
    limits = (("requests", quota.requests), ("tokens", quota.tokens))
    return [
        (name_of(quota), what, limit.used / limit.quota, limit.used, limit.quota)
        for what, limit in limits
        if limit.quota
    ]


def _sum(points: list[Point]) -> dict[str, int | Decimal]:
    return {
        "requests": sum(point.request_count for point in points),
        "tokens": sum(point.total_tokens for point in points),
        "errors": sum(point.error_count for point in points),
    }
