"""The last proof of the books: who made it and when, and what each check came to. Looking at it proves nothing anew: the job does."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.api.admin.jobs import Run
from services.api.auth.asking import Finance
from services.api.fields import Answer, Exact, Instant
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from services.billing.reconciliation.report import read_report

router = APIRouter(prefix="/api/v1/admin/reconciliation", tags=["admin: reconciliation"])


class Check(Answer):
    """A statement that was proved or not: its two sides, and the first keys in which they differ."""

    name: str
    statement: str
    left_label: str
    left: Exact
    right_label: str
    right: Exact
    differing: list[str]
    eventual: bool = Field(description="While messages are on their way it does not hold yet.")
    holds: bool


class Report(Answer):
    """A proof, and the runs beside it, the newest first. `scheduled_for` null: no proof has ended yet."""

    scheduled_for: Instant | None = Field(description="Which of the runs it is of.")
    checks: list[Check] = Field(description="Those that do not hold come first.")
    runs: list[Run]


@router.get("")
async def read_reconciliation(
    request: Request,
    principal: Finance,
    run: Annotated[Instant | None, Query(description="The run for this time; without it the last that ended.")] = None,
) -> Report:
    """What each check of a proof came to, as it was when it was made."""
    async with state_of(request).database.reading(principal) as connection:
        found = await read_report(connection, run)
    if found is None:
        raise Problem(NOT_FOUND, f"there is no proof for {run}: they are kept for seven days")
    return Report(
        scheduled_for=found.scheduled_for,
        checks=[Check.model_validate(check, from_attributes=True) for check in found.checks],
        runs=[Run.model_validate(one, from_attributes=True) for one in found.runs],
    )
