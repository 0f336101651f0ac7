"""Electronic invoices: EN 16931 in UN/CEFACT CII syntax, the XML of Factur-X, ZUGFeRD and XRechnung.

They state an invoice as it was issued, whatever was paid or credited since.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from lxml import etree

from services.billing.invoices.document import CreditNoteDocument, DocumentLine, InvoiceDocument, Party, TaxAmount
from shared.errors import TallystickError
from shared.money import exact, minor_unit

PROFILE: Final = "urn:cen.eu:en16931:2017"
INVOICE_CODE: Final = "380"
CREDIT_NOTE_CODE: Final = "381"
BANK_TRANSFER_CODE: Final = "58"
UNIT_CODES: Final = {"second": "SEC", "day": "DAY", "month": "MON", "year": "ANN"}
"""UN/ECE recommendation 20; what is not listed is counted: C62."""
TOKENS_OF_A_PRICE: Final = 1000
_NAMESPACES: Final = {
    "rsm": "urn:un:unece:uncefact:data:standard:CrossIndustryInvoice:100",
    "ram": "urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100",
    "udt": "urn:un:unece:uncefact:data:standard:UnqualifiedDataType:100",
    "qdt": "urn:un:unece:uncefact:data:standard:QualifiedDataType:100",
}
_NO_TAX_REASONS: Final = {"AE": "Reverse charge", "E": "Exempt", "O": "Not subject to VAT"}


class EInvoiceIncomplete(TallystickError):
    """An e-invoice needs facts that the invoice does not have; the message names them."""


def einvoice(document: InvoiceDocument | CreditNoteDocument) -> bytes:
    """Return the XML of an issued invoice or credit note. Raises `EInvoiceIncomplete` that says what is missing."""
    if lacking := missing(document):
        raise EInvoiceIncomplete(f"{_name(document)} cannot be an e-invoice, it lacks {', '.join(lacking)}")
    root = etree.Element(_tag("rsm:CrossIndustryInvoice"), nsmap=_NAMESPACES)
    _add(root, "rsm:ExchangedDocumentContext/ram:GuidelineSpecifiedDocumentContextParameter/ram:ID", PROFILE)
    _header(root, document)
    deal = _add(root, "rsm:SupplyChainTradeTransaction")
    for line in document.lines:
        _line(deal, line, document.currency)
    _agreement(deal, document)
    _add(deal, "ram:ApplicableHeaderTradeDelivery")
    _settlement(_add(deal, "ram:ApplicableHeaderTradeSettlement"), document)
    xml: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)
    return xml


def missing(document: InvoiceDocument | CreditNoteDocument) -> list[str]:
    """Return what an e-invoice must have and the document does not: nothing if it can be one."""
    seller, buyer = document.seller, document.buyer
    facts = [
        ("a number: it is a draft", bool(document.number)),
        ("lines", bool(document.lines)),
        ("the seller's country", bool(seller.country)),
        ("the seller's VAT id or tax number", bool(seller.vat_id or seller.tax_number)),
        ("the buyer's country", bool(buyer.country)),
        ("the buyer's VAT id, which reverse charge needs", not _has(document, "AE") or bool(buyer.vat_id)),
    ]
    return [fact for fact, there in facts if not there]


def _has(document: InvoiceDocument | CreditNoteDocument, category: str) -> bool:
    return any(tax.category == category for tax in document.taxes)


def _name(document: InvoiceDocument | CreditNoteDocument) -> str:
    return document.number or f"draft {document.id}"


def _header(root: etree._Element, document: InvoiceDocument | CreditNoteDocument) -> None:
    header = _add(root, "rsm:ExchangedDocument")
    is_note = isinstance(document, CreditNoteDocument)
    _add(header, "ram:ID", document.number)
    _add(header, "ram:TypeCode", CREDIT_NOTE_CODE if is_note else INVOICE_CODE)
    issued = document.issued_at if isinstance(document, CreditNoteDocument) else document.issue_date
    if issued is not None:  # what has a number has been issued
        _date(header, "ram:IssueDateTime", issued)
    if isinstance(document, CreditNoteDocument):
        _add(header, "ram:IncludedNote/ram:Content", document.reason)


def _line(deal: etree._Element, line: DocumentLine, currency: str) -> None:
    """Write a line. A price is never negative (BR-27): what is taken off has a negative quantity."""
    item = _add(deal, "ram:IncludedSupplyChainTradeLineItem")
    _add(item, "ram:AssociatedDocumentLineDocument/ram:LineID", str(line.position))
    _add(item, "ram:SpecifiedTradeProduct/ram:Name", line.description)
    code = UNIT_CODES.get(line.unit, "C62")
    with exact():
        price, quantity = line.unit_price, line.quantity
        if price is None:
            price, quantity = line.amount, Decimal(1)
        if price < 0:
            price, quantity = -price, -quantity
        many = TOKENS_OF_A_PRICE if line.unit in ("token", "returned_token") else 1
        price *= many
    net = _add(item, "ram:SpecifiedLineTradeAgreement/ram:NetPriceProductTradePrice")
    _add(net, "ram:ChargeAmount", _plain(price))
    _add(net, "ram:BasisQuantity", str(many), unitCode=code)
    _add(item, "ram:SpecifiedLineTradeDelivery/ram:BilledQuantity", _plain(quantity), unitCode=code)
    terms = _add(item, "ram:SpecifiedLineTradeSettlement")
    tax = _add(terms, "ram:ApplicableTradeTax")
    _add(tax, "ram:TypeCode", "VAT")
    _add(tax, "ram:CategoryCode", line.tax_category)
    if line.tax_category != "O":
        _add(tax, "ram:RateApplicablePercent", _percent(line.tax_rate))
    if line.period_start and line.period_end:
        _period(terms, line.period_start, line.period_end)
    _add(terms, "ram:SpecifiedTradeSettlementLineMonetarySummation/ram:LineTotalAmount", _amount(line.amount, currency))


def _agreement(deal: etree._Element, document: InvoiceDocument | CreditNoteDocument) -> None:
    agreement = _add(deal, "ram:ApplicableHeaderTradeAgreement")
    if document.buyer.buyer_reference:
        _add(agreement, "ram:BuyerReference", document.buyer.buyer_reference)
    _party(_add(agreement, "ram:SellerTradeParty"), document.seller, with_tax=True)
    _party(_add(agreement, "ram:BuyerTradeParty"), document.buyer, with_tax=not _has(document, "O"))


def _party(place: etree._Element, party: Party, *, with_tax: bool) -> None:
    _add(place, "ram:Name", party.name)
    if party.contact or party.phone:
        contact = _add(place, "ram:DefinedTradeContact")
        _add(contact, "ram:PersonName", party.contact or party.name)
        if party.phone:
            _add(contact, "ram:TelephoneUniversalCommunication/ram:CompleteNumber", party.phone)
        if party.email:
            _add(contact, "ram:EmailURIUniversalCommunication/ram:URIID", party.email)
    address = _add(place, "ram:PostalTradeAddress")
    for name, text in (
        ("PostcodeCode", party.postal_code),
        ("LineOne", party.line1),
        ("LineTwo", party.line2),
        ("CityName", party.city),
        ("CountryID", party.country),
        ("CountrySubDivisionName", party.region),
    ):
        if text:
            _add(address, f"ram:{name}", text)
    if party.email:
        _add(place, "ram:URIUniversalCommunication/ram:URIID", party.email, schemeID="EM")
    if with_tax and party.vat_id:
        _add(place, "ram:SpecifiedTaxRegistration/ram:ID", party.vat_id, schemeID="VA")
    if with_tax and party.tax_number:
        _add(place, "ram:SpecifiedTaxRegistration/ram:ID", party.tax_number, schemeID="FC")


def _settlement(place: etree._Element, document: InvoiceDocument | CreditNoteDocument) -> None:
    currency = document.currency
    _add(place, "ram:PaymentReference", document.number)
    _add(place, "ram:InvoiceCurrencyCode", currency)
    is_invoice = isinstance(document, InvoiceDocument)
    if is_invoice and document.seller.iban:
        means = _add(place, "ram:SpecifiedTradeSettlementPaymentMeans")
        _add(means, "ram:TypeCode", BANK_TRANSFER_CODE)
        account = _add(means, "ram:PayeePartyCreditorFinancialAccount")
        _add(account, "ram:IBANID", document.seller.iban)
        _add(account, "ram:AccountName", document.seller.account_holder or document.seller.name)
        if document.seller.bic:
            _add(means, "ram:PayeeSpecifiedCreditorFinancialInstitution/ram:BICID", document.seller.bic)
    for tax in document.taxes:
        _tax(place, tax, currency)
    if isinstance(document, InvoiceDocument):
        _period(place, document.period_start, document.period_end)
        if document.due_date:
            _date(_add(place, "ram:SpecifiedTradePaymentTerms"), "ram:DueDateDateTime", document.due_date)
    sums = _add(place, "ram:SpecifiedTradeSettlementHeaderMonetarySummation")
    _add(sums, "ram:LineTotalAmount", _amount(document.subtotal, currency))
    _add(sums, "ram:TaxBasisTotalAmount", _amount(document.subtotal, currency))
    _add(sums, "ram:TaxTotalAmount", _amount(document.tax, currency), currencyID=currency)
    _add(sums, "ram:GrandTotalAmount", _amount(document.total, currency))
    _add(sums, "ram:DuePayableAmount", _amount(document.total, currency))
    if isinstance(document, CreditNoteDocument):
        invoice = _add(place, "ram:InvoiceReferencedDocument")
        _add(invoice, "ram:IssuerAssignedID", document.invoice_number)
        day = _add(invoice, "ram:FormattedIssueDateTime/qdt:DateTimeString", _day(document.invoice_issue_date))
        day.set("format", "102")


def _tax(place: etree._Element, tax: TaxAmount, currency: str) -> None:
    entry = _add(place, "ram:ApplicableTradeTax")
    _add(entry, "ram:CalculatedAmount", _amount(tax.tax, currency))
    _add(entry, "ram:TypeCode", "VAT")
    reason = tax.reason or _NO_TAX_REASONS.get(tax.category)
    if reason:
        _add(entry, "ram:ExemptionReason", reason)
    _add(entry, "ram:BasisAmount", _amount(tax.taxable, currency))
    _add(entry, "ram:CategoryCode", tax.category)
    if tax.category != "O":
        _add(entry, "ram:RateApplicablePercent", _percent(tax.rate))


def _period(place: etree._Element, start: datetime, end: datetime) -> None:
    """Write a half-open period as its first and last day."""
    period = _add(place, "ram:BillingSpecifiedPeriod")
    _date(period, "ram:StartDateTime", start)
    _date(period, "ram:EndDateTime", max(start, end - timedelta(microseconds=1)))


def _date(place: etree._Element, name: str, at: datetime) -> None:
    _add(place, f"{name}/udt:DateTimeString", _day(at)).set("format", "102")


def _day(at: datetime) -> str:
    return f"{at:%Y%m%d}"


def _amount(amount: Decimal, currency: str) -> str:
    return f"{amount.quantize(minor_unit(currency)):f}"


def _percent(rate: Decimal) -> str:
    return _plain(rate * 100)


def _plain(number: Decimal) -> str:
    normal = f"{number:f}"
    return normal.rstrip("0").rstrip(".") if "." in normal else normal


def _add(place: etree._Element, path: str, text: str | None = None, **attributes: str) -> etree._Element:
    """Append the elements of a path, and return the last of them."""
    for name in path.split("/"):
        place = etree.SubElement(place, _tag(name))
    if text is not None:
        place.text = text
    for key, value in attributes.items():
        place.set(key, value)
    return place


def _tag(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"
