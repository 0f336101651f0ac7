"""Routes of usage: series, analytics, events."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from services.api.auth.asking import Asking
from services.api.fields import Instant, Word
from services.api.paging import CursorPage, Listing, page
from services.api.problems import invalid
from services.api.scope import Whose
from services.api.state import state_of
from services.api.usage.answers import Analytics, Event, Series, group_of, point_of, totals_of
from services.api.usage.buckets import MOST_BUCKETS, Step, buckets, count_of, cover, whole_hours
from services.api.usage.reading import usage_of
from shared.contracts import LATENCY_BUCKETS_MS
from shared.period import Period

router = APIRouter(prefix="/api/v1", tags=["usage"])

DEFAULT_RANGE: Final = {"hour": timedelta(days=1), "day": timedelta(days=30), "month": timedelta(days=365)}
BY_MODEL: Final = ("model", "subscription")
OLDER: Final = "Usage from before an upgrade to the version that keeps this by hour is read from events: at most 92 days, and no archived months."

From = Annotated[Instant | None, Query(alias="from", description="First moment of the range, with a zone.")]
To = Annotated[Instant | None, Query(description="End of the range, not part of it; now without it.")]
TimeZone = Annotated[
    Word | None,
    Query(description="IANA name of the zone that days and months are cut in; the user's own without it, else UTC."),
]
SubscriptionId = Annotated[UUID | None, Query(description="Only of this subscription.")]


@router.get("/usage", response_model=Series)
async def read_usage_series(
    *,
    request: Request,
    principal: Asking,
    user: Whose,
    step: Annotated[Step, Query(description="What each point sums.")] = "day",
    start: From = None,
    end: Annotated[To, Query(alias="to")] = None,
    time_zone: TimeZone = None,
    group_by: Annotated[
        Literal["model", "subscription", "provider", "key", "feature", "power_level", "app"] | None,
        Query(description=f"By anything but model and subscription: {OLDER}"),
    ] = None,
    subscription_id: SubscriptionId = None,
) -> Response:
    """Usage by hour, day or month of a time zone: requests, errors, tokens, latency with its percentiles.

    It is summed by UTC hour: a range is widened to whole ones.
    """
    state = state_of(request)
    period = _range(start, end, DEFAULT_RANGE[step], state.clock.now())
    if (many := count_of(step, period)) > MOST_BUCKETS:
        raise invalid(
            "query.step", f"{many:,} {step}s are more than {MOST_BUCKETS:,}: take a longer step, or a shorter range"
        )
    async with usage_of(state.database, principal, user, subscription_id) as usage:
        zone = await usage.zone(time_zone, user or principal.user_id)
        found = buckets(step, period, zone)
        begins = [bucket.period.start for bucket in found]
        if group_by is None or group_by in BY_MODEL:
            rows = await usage.series(begins, period.end, group_by)
        elif await usage.kept_by_hour(period, "query.from"):
            rows = await usage.fetch("series_of_hours", period.start, period.end, begins, group_by)
        else:
            rows = await usage.fetch("series_of_log", period.start, period.end, begins, group_by, LATENCY_BUCKETS_MS)
    series = Series(
        step=step,
        time_zone=zone.key,
        start=period.start,
        end=period.end,
        group_by=group_by,
        points=[point_of(row, found[row["bucket"]]) for row in rows],
    )
    # Written here, and not by way of dictionaries: there may be a thousand points.
    return Response(series.model_dump_json(), media_type="application/json")


@router.get("/analytics/usage")
async def read_analytics(
    *,
    request: Request,
    principal: Asking,
    user: Whose,
    days: Annotated[int, Query(ge=1, le=366, description="Today and the days before it, in the time zone.")] = 7,
    group_by: Annotated[
        Literal["model", "provider", "key", "feature", "power_level", "app"],
        Query(description=f"By provider, key and app: {OLDER}"),
    ] = "model",
    time_zone: TimeZone = None,
    subscription_id: SubscriptionId = None,
) -> Analytics:
    """Usage and its cost over the last days, by model, provider, key, feature, power level or app, in each currency."""
    state = state_of(request)
    async with usage_of(state.database, principal, user, subscription_id) as usage:
        zone = await usage.zone(time_zone, user or principal.user_id)
        today = state.clock.now().astimezone(zone).date()
        begin = datetime.combine(today - timedelta(days=days - 1), time(), zone)
        period = whole_hours(begin, state.clock.now() + timedelta(microseconds=1))
        if group_by == "model":
            *runs, _ = map(list, zip(*cover([period.start, period.end]), strict=True))
            rows = await usage.fetch("analytics_by_model", period.start, period.end, *runs)
        elif group_by in ("feature", "power_level"):
            rows = await usage.fetch("analytics_by_rating", period.start, period.end, group_by)
        elif await usage.kept_by_hour(period, "query.days"):
            rows = await usage.fetch("analytics_of_hours", period.start, period.end, group_by)
        else:
            rows = await usage.fetch("analytics_of_log", period.start, period.end, group_by)
    rows = [dict(row) for row in rows]
    return Analytics(
        days=days,
        group_by=group_by,
        time_zone=zone.key,
        start=period.start,
        end=period.end,
        items=[group_of(row) for row in rows],
        totals=totals_of(rows),
    )


@router.get("/usage/events")
async def list_usage_events(
    *,
    request: Request,
    principal: Asking,
    user: Whose,
    paging: CursorPage,
    subscription_id: SubscriptionId = None,
    model: Annotated[Word | None, Query(description="Only of this model.")] = None,
    provider: Annotated[Word | None, Query(description="Only of this provider.")] = None,
    api_key_id: Annotated[UUID | None, Query(description="Only of this API key.")] = None,
    app_id: Annotated[Word | None, Query(description="Only of this app.")] = None,
    outcome: Annotated[
        Literal["success", "error"] | None, Query(description="Only those that succeeded, or failed.")
    ] = None,
    start: From = None,
    end: Annotated[To, Query(alias="to")] = None,
) -> Listing[Event]:
    """Usage events one by one, the newest first. Events that come later shift nothing on the pages that follow."""
    if start and end and start >= end:
        raise invalid("query.from", "it is not before `to`")
    asked = {"list": "events", "user": user, "subscription": subscription_id, "model": model, "provider": provider, "key": api_key_id, "app": app_id,
             "outcome": outcome, "from": start, "to": end}  # fmt: skip
    after = paging.key(asked, datetime, UUID)
    async with usage_of(state_of(request).database, principal, user, subscription_id) as usage:
        if usage.subscriptions is None:
            raise invalid("query.user_id", "say whose events, by user_id or subscription_id")
        failed = None if outcome is None else outcome == "error"
        wanted = (model, provider, api_key_id, app_id, failed)
        rows = await usage.newest(wanted, start, end, after, paging.limit + 1)
    shown, cursor = page(rows, paging, asked, lambda row: (row["created_at"], row["id"]))
    return Listing(items=[Event(**row) for row in shown], next_cursor=cursor)


def _range(start: datetime | None, end: datetime | None, default: timedelta, now: datetime) -> Period:
    end = end or now
    try:
        return whole_hours(start or end - default, end)
    except ValueError:
        raise invalid("query.from", "it is not before `to`") from None
