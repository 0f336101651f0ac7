"""`tallystick credits`: prepaid credits and money for invoices: see them, give them, correct them, and how they are bought and renewed."""

from services.cli.credits.accounts import app
from services.cli.credits.terms import package, rate, tier

app.add_typer(package, name="package")
app.add_typer(rate, name="rate")
app.add_typer(tier, name="tier")

__all__ = ["app"]
