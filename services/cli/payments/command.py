"""`tallystick payments`: money that came, that is asked for, and that is given back."""

from __future__ import annotations

import typer

from services.cli.payments import provider, records, statements

app = typer.Typer(
    help="Payments: what came, what waits for a person, what is charged and given back.",
    no_args_is_help=True,
)
app.command("list")(records.list_payments)
app.command()(records.disputes)
app.command()(records.record)
app.command("import-statement")(statements.import_statement)
app.command()(statements.unmatched)
app.command()(statements.match)
app.command()(records.refund)
app.command()(provider.methods)
app.command()(provider.checkout)
app.command()(provider.charge)
app.command("receive-webhook")(provider.receive_webhook)
