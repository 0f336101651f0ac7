"""`tallystick invoice draft | close`: the ends of periods, by hand. The scheduled job does the same."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator
from services.cli.invoices import printing
from services.cli.invoices.listing import AsJson, User, terms_of, the_month

if TYPE_CHECKING:
    from uuid import UUID

TheMonth = Annotated[str, typer.Option("--period", metavar="MONTH", help="The month, such as 2026-10.")]


def draft(*, period: TheMonth, user: User = None, as_json: AsJson = False) -> None:
    """Begin the invoices of a month: they are listed as drafts, and late events go into them until they are issued."""
    from services.billing.invoices.closing import draft_period  # noqa: PLC0415 (slow to import)

    wanted = the_month(period)

    async def work(settings: Any, pool: Any) -> Any:
        return await draft_period(pool, wanted, only_user=await _user(pool, user), terms=terms_of(settings))

    drafts = operator.with_billing(work)
    typer.echo(json.dumps([str(id_) for id_ in drafts]) if as_json else operator.plural(len(drafts), "draft"))


def close(
    *,
    period: TheMonth,
    user: User = None,
    grace_hours: Annotated[
        float | None,
        typer.Option(min=0, help="How long late events were waited for; TALLYSTICK_BILLING_GRACE_HOURS without it."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Issue the invoices of a month that is over. Who has one already gets no other. Exit code 1 if a customer's failed."""
    from services.billing.invoices.closing import close_period  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    wanted = the_month(period)

    async def work(settings: Any, pool: Any) -> Any:
        grace = timedelta(hours=settings.billing_grace_hours if grace_hours is None else grace_hours)
        who = await _user(pool, user)
        return await close_period(
            pool, wanted, clock=SystemClock(), grace=grace, only_user=who, terms=terms_of(settings)
        )

    closing = operator.with_billing(work)
    if as_json:
        invoices = [
            {"id": i.id, "number": i.number, "user_id": i.user_id, "currency": i.currency, "total": i.total}
            for i in closing.invoices
        ]
        failures = [{"user_id": c.user_id, "currency": c.currency, "error": error} for c, error in closing.failures]
        deferred = [{"user_id": c.user_id, "currency": c.currency} for c in closing.deferred]
        typer.echo(
            json.dumps({"invoices": invoices, "failures": failures, "deferred": deferred}, default=printing.plain)
        )
        return 1 if closing.failures else 0
    for invoice in closing.invoices:
        typer.echo(
            f"{invoice.number}  {invoice.total:f} {invoice.currency}  {operator.plural(invoice.lines, 'line')}  user {invoice.user_id}"
        )
    for customer in closing.deferred:
        typer.echo(f"nothing to pay: user {customer.user_id} in {customer.currency}; it waits for the next invoice")
    for customer, error in closing.failures:
        typer.echo(f"failed: user {customer.user_id} in {customer.currency}: {error}", err=True)
    typer.echo(f"{operator.plural(len(closing.invoices), 'invoice')} issued for {period}")
    return 1 if closing.failures else 0


async def _user(pool: Any, user: str | None) -> UUID | None:
    from services.billing.invoices.desk.parties import find_user  # noqa: PLC0415

    if user is None:
        return None
    async with pool.acquire() as connection:
        return (await find_user(connection, user))["id"]  # type: ignore[no-any-return]
