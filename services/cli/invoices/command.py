"""`tallystick invoice`: the group of its commands."""

from __future__ import annotations

import typer

from services.cli.invoices import closing, correcting, listing, parties

app = typer.Typer(
    help="Invoices: list, show and preview them, close periods, correct what was issued, and say who issues and receives them.",
    no_args_is_help=True,
)
app.command("list")(listing.list_invoices)
app.command()(listing.show)
app.command()(listing.preview)
app.command()(closing.draft)
app.command()(closing.close)
app.command("credit-note")(correcting.credit_note)
app.command()(correcting.void)
app.command()(correcting.dispute)
app.command()(parties.entity)
app.command()(parties.profile)
