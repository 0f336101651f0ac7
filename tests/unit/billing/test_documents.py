"""Documents: what is printed, the same in every form, in three languages, and the e-invoice that a machine reads."""

from __future__ import annotations

import ast
from dataclasses import replace
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pytest
from facturx import get_facturx_xml_from_pdf, xml_check_xsd
from lxml import etree
from pypdf import PdfReader

from services.billing.documents.einvoice import EInvoiceIncomplete, einvoice, missing
from services.billing.documents.html import render_html
from services.billing.documents.pdf import render_pdf
from services.billing.documents.phrases import PHRASES, phrase
from services.billing.documents.rendering import as_issued, render
from services.billing.documents.view import TAX_NOTES, credit_note_view, invoice_view
from services.billing.documents.wording import LANGUAGES, catalog, wording
from services.billing.invoices.document import InvoiceDocument, Party, TaxAmount
from tests.unit.billing.document_facts import BUYER, ISSUED, LINES, SELLER, credit_note, invoice, line

VIEW = Path(__file__).parents[3] / "services/billing/documents/view.py"
RAM = "{urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100}"


def text_of(pdf: bytes) -> str:
    return " ".join(page.extract_text() for page in PdfReader(BytesIO(pdf)).pages)


@pytest.mark.parametrize(
    ("language", "total", "due", "tokens"),
    [
        ("en", "€136.28", "17 November 2026", "gpt-4o: input tokens"),
        ("de", "136,28\xa0€", "17. November 2026", "gpt-4o: Eingabe-Token"),
        ("fr", "136,28\xa0€", "17 novembre 2026", "gpt-4o: jetons en entrée"),
    ],
)
def test_dates_numbers_and_words_are_the_customers(language: str, total: str, due: str, tokens: str) -> None:
    view = invoice_view(invoice(language=language))
    assert view.totals[-1].value == total
    assert view.totals[-1].strong
    assert due in {fact.value for fact in view.facts}
    assert view.rows[1].description == tokens
    assert [row.amount for row in view.rows][2:] == [view.rows[2].amount, view.rows[3].amount]


def test_a_period_is_printed_by_its_first_and_its_last_day() -> None:
    facts = {fact.label: fact.value for fact in invoice_view(invoice()).facts}
    assert facts["Service period"] == "1 October 2026 – 31 October 2026"


def test_tokens_are_priced_by_the_thousand_with_all_digits() -> None:
    assert invoice_view(invoice()).rows[1].unit_price == "0.0025 per 1,000 tokens"
    tiny = line(1, "1000000", "0.000000001")
    assert invoice_view(invoice(lines=(tiny,))).rows[0].unit_price == "0.000001 per 1,000 tokens"


def test_what_was_paid_and_credited_leaves_what_is_due() -> None:
    now = invoice_view(invoice(amount_paid=Decimal(100), amount_credited=Decimal("6.28")))
    assert [(f.label, f.value) for f in now.totals[-3:]] == [
        ("Credited", "-€6.28"),
        ("Paid", "-€100.00"),
        ("Amount due", "€30.00"),
    ]


def test_a_draft_says_that_it_is_one_and_asks_for_nothing() -> None:
    view = invoice_view(invoice(number=None, status="draft", issue_date=None, due_date=None))
    assert (view.title, view.stamp, view.payment) == ("Draft invoice", "Draft", ())
    assert "preview" in view.notes[0]


@pytest.mark.parametrize("category", ["AE", "E", "O", "Z"])
def test_why_there_is_no_tax_is_said(category: str) -> None:
    taxes = (TaxAmount(category, Decimal(0), Decimal("114.52"), Decimal(0)),)  # type: ignore[arg-type]
    assert TAX_NOTES[category] in invoice_view(invoice(taxes=taxes)).notes


def test_every_word_of_the_view_is_translated() -> None:
    """Every text that the view says, and every word that it looks up in its tables."""
    said = set()
    for node in ast.walk(ast.parse(VIEW.read_text())):
        match node:
            case ast.Call(func=ast.Name(id="say" | "self"), args=[ast.Constant(value=text), *_]):
                said.add(text)
            case ast.AnnAssign(target=ast.Name(id="COMPONENTS" | "TAX_NOTES"), value=ast.Dict(values=values)):
                said |= {value.value for value in values if isinstance(value, ast.Constant)}
    said |= {"eco", "balanced", "precision", "per request", "per 1,000 tokens", "per second", "Total", "Total credited"}
    said |= {text for _, text in PHRASES} - {"{name}"}
    assert len(said) > 40
    for language in ("de", "fr"):
        known = {str(message.id) for message in catalog(language) if message.id and message.string}
        assert said - known == set()
        assert known - said == set(), "nobody says this any more"


def test_html_escapes_what_customers_wrote() -> None:
    page = render_html(invoice_view(invoice()))
    assert "Jane &lt;b&gt;Müller&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page.replace("https://example", ""), "it needs nothing from elsewhere"


@pytest.mark.parametrize("language", LANGUAGES)
def test_html_and_pdf_say_the_same(language: str) -> None:
    shown = invoice(language=language)
    view = invoice_view(shown)
    pdf = text_of(render_pdf(view, at=ISSUED)).replace("\n", " ")
    page = render_html(view)
    for text in (
        view.title,
        view.totals[-1].value,
        *(row.amount for row in view.rows),
        *(row.quantity for row in view.rows),
    ):
        assert text in page
        assert text.replace("\xa0", " ").replace("\u202f", " ") in pdf.replace("\xa0", " ").replace("\u202f", " ")


def test_the_same_invoice_gives_the_same_bytes_whatever_was_paid_since() -> None:
    (first,) = render(invoice(), "pdf")
    (later,) = render(invoice(amount_paid=Decimal(50), status="partially_paid"), "pdf")
    (now,) = render(invoice(amount_paid=Decimal(50), status="partially_paid"), "pdf", current=True)
    assert first == later
    assert first != now


def test_a_hundred_lines_take_several_pages_each_with_headings() -> None:
    many = invoice(lines=tuple(line(n, str(n), "0.01") for n in range(1, 101)))
    pages = PdfReader(BytesIO(render_pdf(invoice_view(many), at=ISSUED))).pages
    assert len(pages) > 2
    assert all("Description" in page.extract_text() for page in pages[:-1])


def test_the_pdf_carries_the_e_invoice_and_declares_it() -> None:
    (pdf,) = render(invoice(), "pdf")
    name, xml = get_facturx_xml_from_pdf(pdf)
    assert name == "factur-x.xml"
    assert xml == einvoice(invoice())
    root = PdfReader(BytesIO(pdf)).root_object
    metadata = root["/Metadata"].get_data()  # type: ignore[attr-defined]
    assert b"<fx:ConformanceLevel>EN 16931</fx:ConformanceLevel>" in metadata
    assert b"<pdfaid:part>3</pdfaid:part>" in metadata
    etree.fromstring(metadata)


@pytest.mark.parametrize(
    "document",
    [
        invoice(),
        credit_note(),
        invoice(lines=(replace(LINES[1], tax_category="AE", tax_rate=Decimal(0)),)),
        invoice(
            lines=(replace(LINES[1], tax_category="O", tax_rate=Decimal(0)),),
            seller=replace(SELLER, iban=None, phone=None),
        ),
        invoice(lines=(replace(LINES[1], unit="second", component="units"), line(2, "0", "0"))),
    ],
    ids=["standard", "credit note", "reverse charge", "not taxable", "seconds and nothing"],
)
def test_e_invoices_follow_the_schema_of_en_16931(document: InvoiceDocument) -> None:
    assert xml_check_xsd(einvoice(document), flavor="factur-x", level="en16931")


def test_an_e_invoice_states_the_amounts_of_the_invoice_and_no_price_below_zero() -> None:
    shown = invoice()
    root = etree.fromstring(einvoice(shown))
    amounts = {
        name: root.findtext(f".//{RAM}{name}")
        for name in ("TaxBasisTotalAmount", "GrandTotalAmount", "DuePayableAmount")
    }
    assert amounts == {"TaxBasisTotalAmount": "114.52", "GrandTotalAmount": "136.28", "DuePayableAmount": "136.28"}
    lines = [Decimal(e.text or "") for e in root.iter(f"{RAM}LineTotalAmount")]
    assert sum(lines[:-1]) == lines[-1] == shown.subtotal
    prices = [Decimal(e.text or "") for e in root.iter(f"{RAM}ChargeAmount")]
    quantities = [Decimal(e.text or "") for e in root.iter(f"{RAM}BilledQuantity")]
    per = [Decimal(e.text or "") for e in root.iter(f"{RAM}BasisQuantity")]
    assert min(prices) >= 0
    assert [p * q / b for p, q, b in zip(prices, quantities, per, strict=True)] == [
        each.exact_amount for each in shown.lines
    ]


def test_what_an_e_invoice_lacks_is_named_and_the_pdf_comes_without_it() -> None:
    bare = invoice(seller=Party(name="Your company"), buyer=replace(BUYER, country=None))
    assert missing(bare) == ["the seller's country", "the seller's VAT id or tax number", "the buyer's country"]
    with pytest.raises(
        EInvoiceIncomplete, match="INV-2026-000042 cannot be an e-invoice, it lacks the seller's country"
    ):
        render(bare, "xml")
    (pdf,) = render(bare, "pdf")
    assert "/AF" not in PdfReader(BytesIO(pdf)).root_object


def test_a_credit_note_names_its_invoice_and_its_reason() -> None:
    view = credit_note_view(credit_note(language="de"))
    facts = {fact.label: fact.value for fact in view.facts}
    assert facts["Zu Rechnung"] == "INV-2026-000042, 3. November 2026"
    assert facts["Grund"] == "An hour was counted twice"
    assert view.totals[-1].label == "Gutgeschriebener Betrag"


def test_a_draft_is_shown_as_it_is() -> None:
    draft = invoice(number=None, status="draft", issue_date=None, due_date=None)
    assert as_issued(draft) is draft
    assert missing(draft)[0] == "a number: it is a draft"


def test_an_unknown_language_is_english() -> None:
    assert wording("tlh")("Total") == "Total"


@pytest.mark.parametrize(
    ("written", "english", "german"),
    [
        ("Team, from 1 October 2026", "Team", "Team"),
        ("Team, 11 October 2026 to 31 October 2026 (prorated)", "Team (prorated)", "Team (anteilig)"),
        (
            "Credit for Team, unused 11 October 2026 to 31 October 2026",
            "Credit for Team, unused",
            "Gutschrift für Team, nicht genutzt",
        ),
        (
            "Team: 20 requests beyond 100 included, 1 October 2026 to 31 October 2026 (late usage)",
            "Team: 20 requests beyond 100 included (late usage)",
            "Team: 20 requests über 100 enthaltene hinaus (verspätete Nutzung)",
        ),
        ("Welcome: 20 % off Team, from 1 October 2026", "Welcome: 20 % off Team", "Welcome: 20 % Nachlass auf Team"),
        ("Usage included in Team, 1 October 2026 to 31 October 2026", "Usage included in Team", "In Team enthaltene Nutzung"),
        ("Credit carried over from INV-2026-000001", "Credit carried over from INV-2026-000001", "Guthaben aus INV-2026-000001"),
        ("Something of your own", "Something of your own", "Something of your own"),
    ],
)  # fmt: skip
def test_charges_and_credits_are_called_in_the_customers_language(written: str, english: str, german: str) -> None:
    assert phrase(wording("en"), written) == english
    assert phrase(wording("de"), written) == german
