"""`tallystick invoice entity | profile`: who issues invoices, and how customers receive them."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli import operator
from services.cli.invoices.correcting import act_as
from services.cli.invoices.listing import AsJson

Text = Annotated[str | None, typer.Option(metavar="TEXT")]
Days = Annotated[int | None, typer.Option(min=0, max=3650, help="Days from issue until an invoice is due.")]
Rate = Annotated[str | None, typer.Option(metavar="RATE", help="Such as 19% or 0.19.")]
Zero = Annotated[
    bool | None, typer.Option("--zero-invoices/--no-zero-invoices", help="Whether invoices over nothing are issued.")
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]


class Language(StrEnum):
    """Languages of documents."""

    en = "en"
    de = "de"
    fr = "fr"


class Late(StrEnum):
    """How usage that was taken back after its invoice is given back."""

    adjustment = "adjustment"
    credit_note = "credit_note"


class Treatment(StrEnum):
    """How a customer is taxed."""

    standard = "standard"
    reverse_charge = "reverse_charge"
    exempt = "exempt"


def entity(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Which; `default` issues where nothing else is said.")] = None,
    *,
    name: Text = None,
    line1: Text = None,
    line2: Text = None,
    postal_code: Text = None,
    city: Text = None,
    region: Text = None,
    country: Annotated[str | None, typer.Option(metavar="CODE", help="Two letters, such as DE.")] = None,
    vat_id: Text = None,
    tax_number: Text = None,
    registration: Text = None,
    email: Text = None,
    phone: Text = None,
    website: Text = None,
    account_holder: Text = None,
    bank_name: Text = None,
    iban: Text = None,
    bic: Text = None,
    prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="What its numbers begin with; fixed once it has issued.")] = None,
    tax_rate: Rate = None,
    payment_days: Days = None,
    late_usage: Late | None = None,
    zero_invoices: Zero = None,
    language: Language | None = None,
    footer: Text = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """List the legal entities that issue invoices, or make or change one. An empty text clears a field. Issued invoices stay as they are."""
    from services.billing.invoices.desk import parties  # noqa: PLC0415 (slow to import)

    changes = _changes(
        name=name, line1=line1, line2=line2, postal_code=postal_code, city=city, region=region, country=country, vat_id=vat_id,
        tax_number=tax_number, registration=registration, email=email, phone=phone, website=website, account_holder=account_holder,
        bank_name=bank_name, iban=iban, bic=bic, tax_rate=_rate(tax_rate, "0"), payment_days=payment_days, late_usage=late_usage,
        issue_zero_invoices=zero_invoices, language=language, footer=footer,
    )  # fmt: skip
    if prefix is not None:
        changes["invoice_prefix"] = prefix
    if id_ is None:
        _show(operator.with_database(parties.entities), as_json)
        return
    who = operator.actor(by)
    _show([act_as(who, "", lambda connection: parties.set_entity(connection, id_, changes))], as_json)


def profile(
    user: Annotated[str, typer.Argument(metavar="USER", help="An id or an e-mail address.")],
    *,
    entity: Annotated[str | None, typer.Option(metavar="ID", help="The legal entity that invoices this customer.")] = None,
    name: Text = None,
    contact: Text = None,
    line1: Text = None,
    line2: Text = None,
    postal_code: Text = None,
    city: Text = None,
    region: Text = None,
    country: Annotated[str | None, typer.Option(metavar="CODE", help="Two letters, such as FR.")] = None,
    vat_id: Text = None,
    email: Text = None,
    phone: Text = None,
    buyer_reference: Annotated[str | None, typer.Option(metavar="TEXT", help="What the customer wants to find on its invoices.")] = None,
    tax: Treatment | None = None,
    tax_rate: Rate = None,
    exemption_reason: Text = None,
    currency: Annotated[str | None, typer.Option(metavar="CODE")] = None,
    language: Language | None = None,
    payment_days: Days = None,
    late_usage: Late | None = None,
    zero_invoices: Zero = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show or change how a customer is invoiced. An empty text clears a field. Issued invoices stay as they are."""
    from services.billing.invoices.desk import parties  # noqa: PLC0415

    changes = _changes(
        entity=entity, name=name, contact=contact, line1=line1, line2=line2, postal_code=postal_code, city=city, region=region,
        country=country, vat_id=vat_id, email=email, phone=phone, buyer_reference=buyer_reference, tax_treatment=tax,
        tax_rate=_rate(tax_rate, ""), exemption_reason=exemption_reason, currency=currency, language=language,
        payment_days=payment_days, late_usage=late_usage, issue_zero_invoices=zero_invoices,
    )  # fmt: skip
    who = operator.actor(by)
    _show([act_as(who, "", lambda connection: parties.set_profile(connection, user, changes))], as_json)


def _rate(text: str | None, cleared: str) -> str | None:
    from services.billing.invoices.desk.parties import parse_rate  # noqa: PLC0415

    return cleared if text == "" else None if text is None else f"{parse_rate(text):f}"


def _changes(**given: Any) -> dict[str, Any]:
    """Return what was given; an empty text clears."""
    return {name: None if value == "" else value for name, value in given.items() if value is not None}


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    for party in found:
        for name, value in party.items():
            if value not in (None, {}):
                typer.echo(f"{name.replace('_', ' '):20} {operator.harmless(str(value))}")
        typer.echo("")
