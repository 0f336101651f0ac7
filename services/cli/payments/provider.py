"""`tallystick payments methods | checkout | charge | receive-webhook`: what goes through a provider."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import operator
from services.cli.payments import AsJson, money, parse_id, tell_json, with_payments
from shared.errors import ConfigurationError

User = Annotated[str, typer.Argument(metavar="USER", help="An id or an e-mail address.")]


def methods(
    user: User,
    *,
    synchronise: Annotated[bool, typer.Option("--sync", help="Fetch them from the provider first.")] = False,
    default: Annotated[str | None, typer.Option("--default", metavar="ID", help="Charge this one from now on.")] = None,
    as_json: AsJson = False,
) -> None:
    """List how a customer can be charged; fetch it from the provider, or choose the default."""
    from services.billing.payments import methods as capability  # noqa: PLC0415 (slow to import)

    async def work(pool: Any, providers: Any, clock: Any) -> Any:
        async with pool.acquire() as connection:
            user_id = await capability.find_user(connection, user)
        if synchronise:
            await capability.synchronise(pool, providers.preferred, user_id, at=clock.now())
        async with pool.acquire() as connection:
            if default:
                await capability.make_default(connection, user_id, parse_id(default))
            return await capability.list_methods(connection, user_id)

    found = with_payments(work)
    if as_json:
        tell_json({"methods": found})
        return
    for method in found:
        expiry = f"  until {method.expiry_month:02}/{method.expiry_year}" if method.expiry_month else ""
        told = operator.harmless(f"{method.brand or method.type} …{method.last_four or '????'}")
        typer.echo(f"{method.id}  {method.provider:6}  {told}{expiry}{'  (default)' if method.is_default else ''}")
    if not found:
        typer.echo("no payment methods")


def checkout(
    user: User,
    package: Annotated[str, typer.Argument(metavar="PACKAGE", help="Name or id of a credit package.")],
    *,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="TEXT", help="Makes repeating the command harmless: one payment for each key."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a customer buy a credit package: prints the page to pay on, or the reference to write with a bank transfer."""
    from services.billing.payments.charging import start_checkout  # noqa: PLC0415
    from services.billing.payments.methods import find_user  # noqa: PLC0415

    async def work(pool: Any, providers: Any, clock: Any) -> Any:
        async with pool.acquire() as connection:
            user_id = await find_user(connection, user)
        return await start_checkout(pool, providers, user_id, package, clock=clock, key=key)

    page = with_payments(work)
    if as_json:
        tell_json({"payment": page.payment.id, "url": page.url or None, "reference": page.reference})
        return
    asked = money(page.payment.amount, page.payment.currency)
    where = f"at {page.url}" if page.url else f"by bank transfer with the reference {page.reference}"
    typer.echo(f"payment {page.payment.id}: the customer pays {asked} {where}")


def charge(
    invoice: Annotated[str, typer.Argument(metavar="INVOICE", help="Number or id of the invoice.")],
    *,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="TEXT", help="One charge for each key; without one, each call is a new attempt."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Charge what an invoice asks for to its customer's default method, now. Exit code 1 if it was declined."""
    from services.billing.payments.charging import charge_invoice  # noqa: PLC0415
    from shared.ids import uuid7  # noqa: PLC0415

    async def work(pool: Any, providers: Any, clock: Any) -> Any:
        return await charge_invoice(pool, providers, invoice, key=f"charge:{key or uuid7()}", clock=clock)

    payment = with_payments(work)
    if as_json:
        tell_json({"payment": payment.id, "status": payment.status, "failure_reason": payment.failure_reason})
    else:
        why = f": {operator.harmless(payment.failure_reason)}" if payment.status == "failed" else ""
        typer.echo(f"payment {payment.id} of {money(payment.amount, payment.currency)} is {payment.status}{why}")
    return 1 if payment.status == "failed" else 0


def receive_webhook(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The body, byte by byte as it came.", exists=True, dir_okay=False)
    ],
    *,
    signature: Annotated[
        str, typer.Option("--signature", metavar="HEADER", help="The header Stripe-Signature as it came.")
    ],
    as_json: AsJson = False,
) -> None:
    """Take a webhook from a file, as the HTTP endpoint takes it: verified, applied once, harmless in any order.

    A signature of more than five minutes ago counts as replayed: let Stripe send the event again (`stripe events resend`).
    """
    from services.billing.payments.webhooks import receive_webhook as receive  # noqa: PLC0415

    body = file.read_bytes()
    if len(body) > 1_000_000:
        raise ConfigurationError(f"{file} is larger than any webhook")

    async def work(pool: Any, providers: Any, clock: Any) -> Any:
        async with pool.acquire() as connection:
            headers = {"Stripe-Signature": signature}
            return await receive(connection, headers, body, provider=providers["stripe"], now=clock.now())

    received = with_payments(work)
    if as_json:
        facts = {
            "kind": received.kind,
            "outcome": received.outcome,
            "payment": received.payment_id,
            "detail": received.detail,
        }
        tell_json({"event": received.event_id, **facts})
        return
    detail = f": {received.detail}" if received.detail else ""
    typer.echo(f"{received.kind} {received.event_id}: {received.outcome}{detail}")
