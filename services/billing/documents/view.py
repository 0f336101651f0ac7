"""What a reader finds on an invoice or a credit note: every text as it is printed, in the customer's language and notation (pure).

HTML and PDF show the same view, so that they say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, TypedDict

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal, format_percent

from services.billing.documents.phrases import phrase
from services.billing.documents.wording import Wording, wording
from services.billing.invoices.document import CreditNoteDocument, DocumentLine, InvoiceDocument, Party, TaxAmount

COMPONENTS: Final = {
    "requests": "requests",
    "input": "input tokens",
    "cached_input": "cached input tokens",
    "output": "output tokens",
    "units": "units",
}
UNITS: Final = {
    "request": ("per request", 1),
    "token": ("per 1,000 tokens", 1000),
    "second": ("per second", 1),
    "returned_token": ("per 1,000 tokens", 1000),
}
"""How the price of a unit is written, and for how many units."""
TAX_NOTES: Final = {
    "AE": "Reverse charge: the customer owes the tax.",
    "E": "Exempt from tax.",
    "O": "Not subject to tax.",
    "Z": "Zero-rated.",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A line as printed; `detail` stands below the description, smaller."""

    position: str
    description: str
    detail: str
    quantity: str
    unit_price: str
    tax: str
    amount: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A label and what it labels; `strong` for what the eye looks for."""

    label: str
    value: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Headings:
    """The headings of the columns."""

    position: str
    description: str
    quantity: str
    unit_price: str
    tax: str
    amount: str


class _Frame(TypedDict):
    """What stands around every document of a seller."""

    language: str
    sender: str
    recipient: tuple[str, ...]
    headings: Headings
    footer: tuple[tuple[str, ...], ...]
    page: str


@dataclass(frozen=True, slots=True)
class View:
    """A document as printed. `stamp` is what is written across it, such as that it is only a draft."""

    language: str
    title: str
    stamp: str
    sender: str
    recipient: tuple[str, ...]
    facts: tuple[Fact, ...]
    headings: Headings
    rows: tuple[Row, ...]
    totals: tuple[Fact, ...]
    notes: tuple[str, ...]
    payment: tuple[Fact, ...]
    footer: tuple[tuple[str, ...], ...]
    page: str


def invoice_view(invoice: InvoiceDocument) -> View:
    """Return an invoice as printed; a draft says that it is one."""
    say = _Printer(invoice.language, invoice.currency)
    last_day = invoice.period_end - timedelta(microseconds=1)
    issued = invoice.issue_date or None
    facts = [
        Fact(say("Invoice number"), invoice.number or say("none yet")),
        Fact(say("Date"), say.date(issued) if issued else "–"),
        Fact(say("Service period"), f"{say.date(invoice.period_start)} – {say.date(last_day)}"),
    ]
    facts += [Fact(say("Due"), say.date(invoice.due_date))] if invoice.due_date else []
    stamp = {"draft": say("Draft"), "cancelled": say("Cancelled")}.get(invoice.status, "")
    totals = say.totals(invoice.subtotal, invoice.taxes, invoice.total)
    if invoice.amount_credited:
        totals.append(Fact(say("Credited"), say.money(-invoice.amount_credited)))
    if invoice.amount_paid:
        totals.append(Fact(say("Paid"), say.money(-invoice.amount_paid)))
    if invoice.amount_paid or invoice.amount_credited:
        totals.append(Fact(say("Amount due"), say.money(invoice.amount_due), strong=True))
    title = say("Invoice {number}", number=invoice.number) if invoice.number else say("Draft invoice")
    return View(
        title=title,
        stamp=stamp,
        facts=(*facts, *say.references(invoice.buyer)),
        rows=tuple(say.row(line) for line in invoice.lines),
        totals=tuple(totals),
        notes=(*say.tax_notes(invoice.taxes), *say.terms(invoice)),
        payment=say.payment(invoice) if invoice.number and invoice.amount_due > 0 else (),
        **say.frame(invoice.seller, invoice.buyer),
    )


def credit_note_view(note: CreditNoteDocument) -> View:
    """Return a credit note as printed."""
    say = _Printer(note.language, note.currency)
    facts = (
        Fact(say("Credit note number"), note.number),
        Fact(say("Date"), say.date(note.issued_at)),
        Fact(say("For invoice"), f"{note.invoice_number}, {say.date(note.invoice_issue_date)}"),
        Fact(say("Reason"), note.reason),
        *say.references(note.buyer),
    )
    return View(
        title=say("Credit note {number}", number=note.number),
        stamp="",
        facts=facts,
        rows=tuple(say.row(line) for line in note.lines),
        totals=tuple(say.totals(note.subtotal, note.taxes, note.total, total_label="Total credited")),
        notes=say.tax_notes(note.taxes),
        payment=(),
        **say.frame(note.seller, note.buyer),
    )


class _Printer:
    """Writes texts, dates, numbers and amounts as a language has them."""

    def __init__(self, language: str, currency: str) -> None:
        self.words: Wording = wording(language)
        self.locale = Locale.parse({"en": "en_GB"}.get(language, language))
        self.currency = currency

    def __call__(self, text: str, **values: object) -> str:
        return self.words(text, **values)

    def date(self, at: datetime) -> str:
        return format_date(at.date(), "long", locale=self.locale)

    def money(self, amount: Decimal) -> str:
        return format_currency(amount, self.currency, locale=self.locale)

    def number(self, number: Decimal) -> str:
        return format_decimal(number, format="#,##0.##################", locale=self.locale, decimal_quantization=False)

    def percent(self, rate: Decimal) -> str:
        return format_percent(
            rate, format="#,##0.##%" if self.words.language == "en" else "#,##0.## %", locale=self.locale
        )

    def row(self, line: DocumentLine) -> Row:
        per, many = UNITS.get(line.unit, ("", 1))
        price = ""
        if line.unit_price is not None and line.unit in UNITS:
            price = f"{self.number(line.unit_price * many)} {self(per)}"
        elif line.unit_price is not None:
            price = self.number(line.unit_price)
        description, detail = self.description(line)
        return Row(
            position=str(line.position),
            description=description,
            detail=detail,
            quantity=self.number(line.quantity),
            unit_price=price,
            tax=self.percent(line.tax_rate),
            amount=self.money(line.amount),
        )

    def description(self, line: DocumentLine) -> tuple[str, str]:
        """Return what a line is for, and what belongs to it: usage in the customer's words, the rest as it was written."""
        when = ""
        if line.period_start and line.period_end:
            when = f"{self.date(line.period_start)} – {self.date(line.period_end - timedelta(microseconds=1))}"
        facts = line.dimensions
        subject = facts.get("model_id") or facts.get("tool_name") or facts.get("feature_type")
        component = line.component or facts.get("component")
        if component not in COMPONENTS or not subject:
            return phrase(self.words, line.description), when
        qualities = [self(str(facts.get("power_level", "balanced")))]
        qualities += [self("own provider key")] if facts.get("byok") else []
        late = [self("adjustment")] if line.kind == "adjustment" else []
        if note := facts.get("credit_note"):
            late = [self("given back already by {number}", number=note)]
        return f"{subject}: {self(COMPONENTS[component])}", ", ".join([*late, *qualities, *([when] if when else [])])

    def totals(
        self, subtotal: Decimal, taxes: tuple[TaxAmount, ...], total: Decimal, *, total_label: str = "Total"
    ) -> list[Fact]:
        rows = [Fact(self("Subtotal"), self.money(subtotal))]
        for tax in taxes:
            if tax.rate or len(taxes) > 1:
                label = self("VAT {rate} on {amount}", rate=self.percent(tax.rate), amount=self.money(tax.taxable))
                rows.append(Fact(label, self.money(tax.tax)))
        return [*rows, Fact(self(total_label), self.money(total), strong=True)]

    def tax_notes(self, taxes: tuple[TaxAmount, ...]) -> tuple[str, ...]:
        notes = (tax.reason or TAX_NOTES.get(tax.category, "") for tax in taxes if tax.category != "S")
        return tuple(dict.fromkeys(self(note) for note in notes if note))

    def terms(self, invoice: InvoiceDocument) -> tuple[str, ...]:
        if not invoice.number:
            return (self("This is a preview. Amounts may change until the invoice is issued."),)
        if invoice.amount_due <= 0 or invoice.due_date is None:
            return (self("Nothing is to be paid: this invoice is settled."),)
        return (
            self(
                "Please pay {amount} by {date}, naming {number}.",
                amount=self.money(invoice.amount_due), date=self.date(invoice.due_date), number=invoice.number,
            ),
        )  # fmt: skip

    def payment(self, invoice: InvoiceDocument) -> tuple[Fact, ...]:
        seller = invoice.seller
        facts = [
            Fact(self("Account holder"), seller.account_holder or (seller.name if seller.iban else "")),
            Fact(self("Bank"), seller.bank_name or ""),
            Fact("IBAN", _groups_of_four(seller.iban or "")),
            Fact("BIC", seller.bic or ""),
            Fact(self("Reference"), (invoice.number or "") if seller.iban else ""),
        ]
        return tuple(fact for fact in facts if fact.value)

    def references(self, buyer: Party) -> tuple[Fact, ...]:
        facts = (
            Fact(self("Your reference"), buyer.buyer_reference or ""),
            Fact(self("Your VAT id"), buyer.vat_id or ""),
        )
        return tuple(fact for fact in facts if fact.value)

    def frame(self, seller: Party, buyer: Party) -> _Frame:
        """Return what stands around every document of a seller."""
        recipient = (buyer.name, f"{self('attn.')} {buyer.contact}" if buyer.contact else "", *self.address(buyer))
        imprint = (
            (seller.name, *self.address(seller)),
            (seller.email or "", seller.phone or "", seller.website or ""),
            (
                f"{self('VAT id')} {seller.vat_id}" if seller.vat_id else "",
                f"{self('Tax number')} {seller.tax_number}" if seller.tax_number else "",
                seller.registration or "",
            ),
            tuple((seller.footer or "").splitlines()),
        )
        return {
            "language": self.words.language,
            "sender": seller.name,
            "recipient": tuple(part for part in recipient if part),
            "headings": Headings(
                "#", self("Description"), self("Quantity"), self("Unit price"), self("VAT"), self("Amount")
            ),
            "footer": tuple(kept for column in imprint if (kept := tuple(part for part in column if part))),
            "page": self("Page"),
        }

    def address(self, party: Party) -> tuple[str, ...]:
        country = ""
        if party.country:
            country = self.locale.territories.get(party.country, party.country)
        place = " ".join(part for part in (party.postal_code, party.city) if part)
        return tuple(p for p in (party.line1, party.line2, place, party.region, country) if p)


def _groups_of_four(iban: str) -> str:
    return " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
