"""Explains a summary: what the log has for it, and whether that is what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, cast
from uuid import UUID

from services.billing.provenance.explain import EVENTS_SHOWN, FROM_THE_FIRST, SECONDS, SQL, After, NothingToExplain
from shared.period import HOUR, Period, day_start, hour_start, month_start, next_month
from shared.postgres import Connection

PeriodType = Literal["hour", "day", "month"]
MEASURES: Final = (
    "request_count", "error_count", "request_tokens", "response_tokens", "cached_tokens", "latency_sum_ms", "latency_count",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SummaryName:
    """Names a summary: subscription, UTC period, and the model or tool; neither: whichever it is, if there is only one."""

    subscription_id: UUID
    period_type: PeriodType
    start: datetime
    model_id: str = ""
    tool_name: str = ""

    @property
    def period(self) -> Period:
        """The hour, day or month."""
        if self.period_type == "month":
            return Period(self.start, next_month(self.start))
        return Period(self.start, self.start + (HOUR if self.period_type == "hour" else timedelta(days=1)))

    def __str__(self) -> str:
        return f"{self.subscription_id}/{self.period_type}/{self.start:%Y-%m-%dT%H}/{self.model_id or self.tool_name}"


@dataclass(frozen=True, slots=True)
class SummaryExplanation:
    """A summary as it is stored and as the log has it, both by measure. Events and origins as in `Explanation`."""

    name: SummaryName
    stored: Mapping[str, int]
    logged: Mapping[str, int]
    origins: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    problems: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether the events give exactly what is stored."""
        return not self.problems


def parse_summary(text: str) -> SummaryName | None:
    """Return the summary that `SUBSCRIPTION/hour|day|month/START[/MODEL or tool:TOOL]` names; None if it is not of that form.

    Raises `NothingToExplain` for a part that is wrong.
    """
    parts = text.split("/", 3)
    if len(parts) < 3 or parts[1] not in ("hour", "day", "month"):
        return None
    try:
        start = datetime.fromisoformat(parts[2] + "-01" if len(parts[2]) == len("2026-11") else parts[2])
        start = start.replace(tzinfo=start.tzinfo or UTC)
        if not 1970 <= start.year < 2200:
            raise ValueError("it is not of our time")
        subscription = UUID(parts[0])
    except ValueError as error:
        raise NothingToExplain(
            f"'{text}' names no summary ({error}): write it like SUBSCRIPTION/day/2026-11-21/MODEL"
        ) from None
    subject = parts[3] if len(parts) > 3 else ""
    tool = subject.removeprefix("tool:") if subject.startswith("tool:") else ""
    period_type = cast(PeriodType, parts[1])
    aligned = {"hour": hour_start(start), "day": day_start(start), "month": month_start(start)}[period_type]
    return SummaryName(subscription, period_type, aligned, "" if tool else subject, tool)


async def explain_summary(
    connection: Connection, name: SummaryName, *, events_shown: int = EVENTS_SHOWN
) -> SummaryExplanation:
    """Explain a summary. Raises `NothingToExplain` if there is none of that name."""
    name = await _complete(connection, name)
    where = _where(name)
    stored = await connection.fetchrow(
        SQL["summary"], name.subscription_id, name.period_type, name.start, name.model_id, name.tool_name
    )
    logged = await connection.fetchrow(SQL["summarised"], *where, timeout=SECONDS)
    if stored is None and not logged["rows"]:
        raise NothingToExplain(f"there is no summary {name}, and no event that it would sum")
    archived = await connection.fetch(SQL["archived"], name.period.start, name.period.end)
    stored_measures, logged_measures = _measures(stored), _measures(logged)
    return SummaryExplanation(
        name,
        stored_measures,
        logged_measures,
        origins=await connection.fetch(SQL["summarised_origins"], *where, timeout=SECONDS),
        events=await some_events_of(connection, name, wanted=events_shown),
        problems=_disagreements(stored_measures, logged_measures, [row["month"] for row in archived]),
    )


async def events_of(connection: Connection, name: SummaryName) -> AsyncIterator[Mapping[str, Any]]:
    """Yield every event of a summary, in order of time, without holding them all. Call it in a transaction."""
    async for row in connection.cursor(SQL["summarised_events"], *_where(name), None, None, None, prefetch=5_000):
        yield row


async def some_events_of(
    connection: Connection, name: SummaryName, *, wanted: int, after: After = FROM_THE_FIRST
) -> Sequence[Mapping[str, Any]]:
    """Return at most `wanted` events of a summary, in order of time, after one of them. Raises `NothingToExplain`."""
    name = await _complete(connection, name)
    return await connection.fetch(SQL["summarised_events"], *_where(name), wanted, *after[:2], timeout=SECONDS)  # type: ignore[no-any-return]


async def _complete(connection: Connection, name: SummaryName) -> SummaryName:
    """Find the model or tool that was left out."""
    if name.model_id or name.tool_name:
        return name
    found = await connection.fetch(SQL["summaries"], name.subscription_id, name.period_type, name.start)
    if len(found) != 1:
        known = ", ".join(row["model_id"] or f"tool:{row['tool_name']}" for row in found) or "nothing"
        raise NothingToExplain(
            f"{name.subscription_id} used {known} in that {name.period_type}: name one of them after a slash"
        )
    return SummaryName(name.subscription_id, name.period_type, name.start, found[0]["model_id"], found[0]["tool_name"])


def _measures(row: Mapping[str, Any] | None) -> dict[str, int]:
    return {measure: row[measure] if row is not None else 0 for measure in MEASURES}


def _where(name: SummaryName) -> tuple[Any, ...]:
    return name.subscription_id, name.period.start, name.period.end, name.model_id, name.tool_name


def _disagreements(stored: Mapping[str, int], logged: Mapping[str, int], archived: Sequence[datetime]) -> list[str]:
    if archived:
        months = ", ".join(f"{month:%Y-%m}" for month in archived)
        return [f"events of {months} are archived: 'tallystick partitions restore' them, then ask again"]
    return [
        f"{measure.replace('_', ' ')}: {stored[measure]} stored, {logged[measure]} by the events"
        for measure in MEASURES
        if stored[measure] != logged[measure]
    ]
