"""`tallystick alerts`: what users were told about usage and money, and what they want to be told."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import operator

if TYPE_CHECKING:
    from services.billing.notices.alerts import Choice, StoredAlert
    from services.billing.settings import Settings
    from shared.postgres import Pool

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="What users were told about usage and money, and what they want to be told.",
)

User = Annotated[str, typer.Argument(metavar="USER", help="Id or e-mail address.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command("list")
def list_(
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Only those of a user: id or e-mail address.")
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only one type, such as low_balance.")
    ] = None,
    unread: Annotated[bool, typer.Option("--unread", help="Only those that were not read yet.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most that are shown, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the newest alerts, whichever service raised them."""

    async def work(_settings: Settings, pool: Pool) -> list[StoredAlert]:
        from services.billing.notices.alerts import stored_alerts  # noqa: PLC0415

        async with pool.acquire() as connection:
            user_id = await operator.user_id(connection, user) if user else None
            return await stored_alerts(connection, user_id=user_id, type_=type_, unread=unread, limit=limit)

    found = operator.with_billing(work)
    if as_json:
        typer.echo(json.dumps([asdict(alert) for alert in found], default=_plain, indent=2))
        return
    for alert in found:
        typer.echo(
            f"{alert.created_at.astimezone(UTC):%Y-%m-%d %H:%M}  {alert.user_id}  {alert.type}: {operator.harmless(alert.message)}"
        )
    if not found:
        typer.echo("no alerts")


@app.command()
def choices(user: User, *, as_json: Json = False) -> None:
    """Show what a user has chosen. What is not listed is alerted, at the thresholds of the installation."""

    async def work(_settings: Settings, pool: Pool) -> list[Choice]:
        from services.billing.notices.alerts import choices as stored  # noqa: PLC0415

        async with pool.acquire() as connection:
            return await stored(connection, await operator.user_id(connection, user))

    found = operator.with_billing(work)
    if as_json:
        typer.echo(json.dumps([asdict(choice) for choice in found], default=_plain, indent=2))
        return
    for choice in found:
        at = f" at {', '.join(f'{t.normalize():f}' for t in choice.thresholds)}" if choice.thresholds else ""
        typer.echo(f"{choice.kind}: {'on' if choice.enabled else 'off'}{at}")
    if not found:
        typer.echo("nothing chosen: everything is alerted")


@app.command()
def choose(
    user: User,
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", help="Such as usage_threshold, spend, low_balance or subscription_expiring."),
    ],
    *,
    off: Annotated[
        bool, typer.Option("--off", help="The user does not want to be told; without it: wants to.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Thresholds: per cent (usage_threshold), amounts (spend), days ahead (subscription_expiring).",
        ),
    ] = None,
) -> None:
    """Keep what a user wants to be told. Money thresholds (spend) have no default: nobody is told without a choice."""
    thresholds = _thresholds(at) if at else None

    async def work(_settings: Settings, pool: Pool) -> None:
        from services.billing.notices.alerts import choose as keep  # noqa: PLC0415

        async with pool.acquire() as connection:
            await keep(
                connection, await operator.user_id(connection, user), kind, enabled=not off, thresholds=thresholds
            )

    operator.with_billing(work)
    typer.echo(f"{kind}: {'off' if off else 'on'}" + (f" at {at}" if at else ""))


def _thresholds(text: str) -> list[Decimal]:
    from shared.errors import ConfigurationError  # noqa: PLC0415

    try:
        return [Decimal(part.strip()) for part in text.split(",")]
    except InvalidOperation:
        raise ConfigurationError(f"'{text}' are not thresholds: write them like 50,80,100") from None


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
