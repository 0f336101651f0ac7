"""`tallystick payments list | record | refund`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from services.cli import operator
from services.cli.payments import AsJson, By, money, parse_amount, parse_currency, parse_id, tell_json, with_payments
from shared.errors import ConfigurationError

_STATUSES = ("pending", "processing", "failed", "completed", "refunded")


def list_payments(
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Of this user: an id or an e-mail address.")
    ] = None,
    invoice: Annotated[
        str | None, typer.Option("--invoice", metavar="INVOICE", help="Of this invoice: a number or an id.")
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help=f"In this status: {', '.join(_STATUSES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most payments to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List payments, the newest first."""
    from services.billing.payments.invoice_state import find_invoice  # noqa: PLC0415 (slow to import)
    from services.billing.payments.methods import find_user  # noqa: PLC0415
    from services.billing.payments.store import SQL  # noqa: PLC0415

    if status not in (None, *_STATUSES):
        raise ConfigurationError(f"'{status}' is no status of a payment: there are {', '.join(_STATUSES)}")

    async def read(pool: Any, _providers: Any, _clock: Any) -> Any:
        async with pool.acquire() as connection:
            user_id = await find_user(connection, user) if user else None
            invoice_id = (await find_invoice(connection, invoice))[0] if invoice else None
            return await connection.fetch(SQL["list_payments"], user_id, invoice_id, status, limit)

    rows = with_payments(read)
    if as_json:
        tell_json({"payments": [_document(row) for row in rows]})
        return
    for row in rows:
        what = f"invoice {row['invoice_number']}" if row["invoice_number"] else row["package_name"] or "nothing yet"
        notes = [
            f"{money(row['refunded_amount'], row['currency'])} given back" if row["refunded_amount"] else "",
            f"{money(row['left_over'], row['currency'])} left over" if _is_left_over(row) else "",
            row["failure_reason"] or "" if row["status"] == "failed" else "",
        ]
        told = "".join(f"; {operator.harmless(note)}" for note in notes if note)
        typer.echo(
            f"{row['id']}  {row['created_at']:%Y-%m-%d}  {row['status']:10} {money(row['amount'], row['currency']):>16}  "
            f"{row['provider']:6}  {operator.harmless(row['email'])}  for {what}{told}"
        )
    if not rows:
        typer.echo("no payments")


def _is_left_over(row: Any) -> bool:
    return row["status"] in ("completed", "refunded") and row["package_id"] is None and row["left_over"] > 0


def _document(row: Any) -> dict[str, Any]:
    shown = (
        "id", "user_id", "email", "invoice_id", "invoice_number", "package_name", "amount", "currency", "status", "provider",
        "provider_transaction_id", "reference", "failure_reason", "refunded_amount", "allocated_amount", "created_at", "processed_at",
    )  # fmt: skip
    return {name: row[name] for name in shown} | {"left_over": row["left_over"] if _is_left_over(row) else 0}


def disputes(
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Of this user: an id or an e-mail address.")
    ] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Those that are not decided.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most disputes to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List payments that customers dispute at the bank (chargebacks), the newest first."""
    from services.billing.payments.methods import find_user  # noqa: PLC0415
    from services.billing.payments.store import SQL  # noqa: PLC0415

    async def read(pool: Any, _providers: Any, _clock: Any) -> Any:
        async with pool.acquire() as connection:
            user_id = await find_user(connection, user) if user else None
            return await connection.fetch(SQL["disputes"], user_id, open_only, limit)

    rows = with_payments(read)
    if as_json:
        tell_json({"disputes": [dict(row) for row in rows]})
        return
    for row in rows:
        what = f"invoice {row['invoice_number']}" if row["invoice_number"] else f"payment {row['payment_id']}"
        due = ""
        if row["status"] == "open" and row["evidence_due_at"]:
            due = f"; evidence is taken until {row['evidence_due_at']:%Y-%m-%d %H:%M}"
        typer.echo(
            f"{row['provider_dispute_id']}  {row['opened_at']:%Y-%m-%d}  {row['status']:5}{money(row['amount'], row['currency']):>16} "
            f"{row['funds'].replace('_', ' '):10}  {operator.harmless(row['email'])}  {what}: {operator.harmless(row['reason'])}{due}"
        )
    if not rows:
        typer.echo("no disputes")


def record(
    invoice: Annotated[str, typer.Argument(metavar="INVOICE", help="Number or id of the invoice.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="What came, like 119.00.")],
    currency: Annotated[str, typer.Argument(metavar="CURRENCY", help="In which currency, like EUR.")],
    *,
    reference: Annotated[
        str,
        typer.Option(
            "--reference", metavar="TEXT", help="What identifies the payment: the same is recorded once for an invoice."
        ),
    ],
    provider: Annotated[
        str, typer.Option("--provider", help="Through whom it came: manual, stripe, paypal, wise.")
    ] = "manual",
    paid_at: Annotated[
        str | None, typer.Option("--paid-at", metavar="TIME", help="When it came; now without it.")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Record money that came for an invoice, outside of what a provider or a statement tells.

    Less than is to pay leaves the invoice partially paid; what is more stays with the customer.
    """
    from services.billing.payments.invoice_state import find_invoice  # noqa: PLC0415
    from services.billing.payments.provider import PROVIDERS  # noqa: PLC0415
    from services.billing.payments.recording import record_payment  # noqa: PLC0415
    from services.billing.payments.store import act_as  # noqa: PLC0415

    chosen = next((name for name in PROVIDERS if name == provider), None)
    if chosen is None:
        raise ConfigurationError(f"'{provider}' is no provider: there are {', '.join(PROVIDERS)}")
    if not reference.strip():
        raise ConfigurationError("--reference is empty: give what identifies the payment, for example the bank's text")
    came, unit, who = parse_amount(amount), parse_currency(currency), operator.actor(by)
    at = operator.parse_instant(paid_at) if paid_at else datetime.now(UTC)
    if at > datetime.now(UTC):
        raise ConfigurationError(f"--paid-at {at.isoformat()} is in the future: record money when it has come")

    async def write(pool: Any, _providers: Any, _clock: Any) -> Any:
        async with pool.acquire() as connection, connection.transaction():
            await act_as(connection, who)
            invoice_id, _ = await find_invoice(connection, invoice)
            key = f"recorded:{invoice_id}:{reference.strip()}"
            return await record_payment(
                connection,
                invoice_id,
                came,
                unit,
                provider=chosen,
                reference=reference.strip(),
                paid_at=at,
                idempotency_key=key,
            )

    recorded = with_payments(write)
    if as_json:
        tell_json(
            {
                "payment": recorded.payment.id,
                "new": recorded.new,
                "allocated": recorded.allocated,
                "left_over": recorded.left_over,
                "invoice_status": recorded.invoice_status,
            }
        )
        return
    first = "recorded:" if recorded.new else "was recorded before, nothing changed:"
    over = f"; {money(recorded.left_over, unit)} are left over for the customer" if recorded.left_over else ""
    typer.echo(
        f"payment {recorded.payment.id} {first} {money(recorded.allocated, unit)} of it pay invoice {invoice}, "
        f"which is {recorded.invoice_status.replace('_', ' ')}{over}"
    )


def refund(
    payment: Annotated[str, typer.Argument(metavar="PAYMENT", help="Id of the payment, as `list` prints it.")],
    amount: Annotated[
        str | None, typer.Argument(metavar="[AMOUNT]", help="How much; all that is left of it without.")
    ] = None,
    *,
    why: Annotated[
        str, typer.Option("--why", metavar="TEXT", help="Why, for the customer's history and the audit trail.")
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="TEXT", help="Makes repeating the command harmless: one refund for each key."),
    ] = None,
    by: By = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give back a payment, in part or whole, through its provider. Of a package, its credits are taken back as far as they are left.

    A bank transfer is given back by you: the refund is recorded here.
    """
    from services.billing.amounts import amount_text  # noqa: PLC0415 (slow to import)
    from services.billing.payments.refunds import refund_payment  # noqa: PLC0415

    wanted, reason, who = parse_amount(amount) if amount else None, operator.parse_why(why), operator.actor(by)
    operator.ask(f"Give back {amount or 'all that is left'} of payment {payment}?", yes=yes)

    async def give(pool: Any, providers: Any, clock: Any) -> Any:
        return await refund_payment(
            pool, providers, parse_id(payment), wanted, reason=reason, key=key, clock=clock, actor=who
        )

    done = with_payments(give)
    made, unit = done.refund, done.refund.currency
    if as_json:
        tell_json({"refund": made, "left": done.left})
        return
    how = {"completed": "given back", "pending": "asked for: the provider has not confirmed it yet"}.get(
        made.status, made.status
    )
    typer.echo(f"refund {made.id}: {money(made.amount, unit)} {how}; {money(done.left, unit)} of the payment are left")
    if made.credits_due:
        typer.echo(
            f"of the {amount_text(made.credits_due)} credits that it had bought, {amount_text(made.credits_taken)} were taken back"
        )
    if made.provider == "manual":
        typer.echo("it was a bank transfer: transfer the money back yourself")
