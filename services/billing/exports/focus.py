"""FOCUS 1.2 rows of invoices and credit notes (pure): the FinOps Open Cost and Usage Specification.

All 21 mandatory columns, and those of the others that we have something to say in. The BilledCost of the rows of an invoice sum to
its total, tax included; those of a credit note to minus its total.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Final, TypedDict

from services.billing.invoices.document import CreditNoteDocument, DocumentLine, InvoiceDocument, TaxAmount

MANDATORY: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory",
    "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName",
    "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
)  # fmt: skip
SERVICE_CATEGORY: Final = "AI and Machine Learning"
SERVICE_SUBCATEGORY: Final = "Generative AI"
CATEGORIES: Final[Mapping[str, str]] = {
    "usage": "Usage",
    "overage": "Usage",
    "adjustment": "Usage",
    "fee": "Purchase",
    "minimum": "Purchase",
    "package": "Purchase",
    "proration": "Purchase",
    "discount": "Credit",
    "credit": "Credit",
    "carried": "Credit",
}
"""ChargeCategory by kind of line."""
UNITS: Final[Mapping[str, str]] = {
    "token": "Tokens",
    "returned_token": "Tokens",
    "request": "Requests",
    "second": "Seconds",
}
"""PricingUnit by unit of a line; others are spelled as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FocusRow:
    """A row; the names of the fields are the columns. Times are UTC, amounts exact, None is null."""

    BilledCost: Decimal
    BillingAccountId: str
    BillingAccountName: str | None
    BillingAccountType: str
    BillingCurrency: str
    BillingPeriodEnd: datetime
    BillingPeriodStart: datetime
    ChargeCategory: str
    ChargeClass: str | None
    ChargeDescription: str
    ChargeFrequency: str
    ChargePeriodEnd: datetime
    ChargePeriodStart: datetime
    ConsumedQuantity: Decimal | None
    ConsumedUnit: str | None
    ContractedCost: Decimal
    ContractedUnitPrice: Decimal | None
    EffectiveCost: Decimal
    InvoiceId: str
    InvoiceIssuerName: str
    ListCost: Decimal
    ListUnitPrice: Decimal | None
    PricingCategory: str | None
    PricingQuantity: Decimal | None
    PricingUnit: str | None
    ProviderName: str
    PublisherName: str
    ResourceId: str | None
    ResourceName: str | None
    ResourceType: str | None
    ServiceCategory: str
    ServiceName: str
    ServiceSubcategory: str
    SkuId: str | None
    SkuMeter: str | None
    SkuPriceId: str | None
    SubAccountId: str | None
    Tags: str | None


COLUMNS: Final = tuple(field.name for field in fields(FocusRow))
AMOUNTS: Final = (
    "BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "ListCost", "ListUnitPrice", "PricingQuantity",
)  # fmt: skip
TIMES: Final = ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart")


class _Common(TypedDict):
    """What all rows of a document share."""

    BillingAccountId: str
    BillingAccountName: str | None
    BillingAccountType: str
    BillingCurrency: str
    BillingPeriodStart: datetime
    BillingPeriodEnd: datetime
    InvoiceId: str
    InvoiceIssuerName: str
    ProviderName: str
    ServiceCategory: str
    ServiceName: str
    ServiceSubcategory: str


def focus_rows(
    document: InvoiceDocument | CreditNoteDocument,
    period: tuple[datetime, datetime],
    *,
    service: str,
    publishers: Mapping[str, str],
) -> Iterator[FocusRow]:
    """Yield a row for each line and each tax of an issued document.

    `period` is the billing period that it belongs to: of an invoice its own, of a credit note that of its invoice. `publishers` say
    who makes a model. A credit note corrects: its rows are negative and of class Correction.
    """
    sign = -1 if isinstance(document, CreditNoteDocument) else 1
    common = _common(document, period, service)
    for line in document.lines:
        yield _line(document, line, common, sign, publishers)
    for tax in document.taxes:
        if tax.tax:
            yield _tax(document, tax, common, sign)


def _line(
    document: InvoiceDocument | CreditNoteDocument,
    line: DocumentLine,
    common: _Common,
    sign: int,
    publishers: Mapping[str, str],
) -> FocusRow:
    category = CATEGORIES.get(line.kind, "Usage")
    corrects = sign < 0 or line.kind == "adjustment" or bool(line.dimensions.get("late"))
    model = str(line.dimensions.get("model_id") or "") or None
    subject = model or str(line.dimensions.get("tool_name") or line.dimensions.get("feature_type") or "") or None
    used = category == "Usage"
    priced = line.unit_price is not None and category != "Credit"
    unit = UNITS.get(line.unit, line.unit.capitalize())
    tags = {name: str(line.dimensions[name]) for name in ("power_level", "byok") if name in line.dimensions}
    return FocusRow(
        **common,
        BilledCost=sign * line.amount,
        EffectiveCost=sign * line.amount,
        ListCost=sign * line.exact_amount,
        ContractedCost=sign * line.exact_amount,
        ChargeCategory=category,
        ChargeClass="Correction" if corrects else None,
        ChargeDescription=line.description,
        ChargeFrequency="Usage-Based" if used else "Recurring" if category == "Purchase" else "One-Time",
        ChargePeriodStart=line.period_start or common["BillingPeriodStart"],
        ChargePeriodEnd=line.period_end or common["BillingPeriodEnd"],
        ConsumedQuantity=sign * line.quantity if used else None,
        ConsumedUnit=unit if used else None,
        PricingQuantity=sign * line.quantity if priced else None,
        PricingUnit=unit if priced else None,
        ListUnitPrice=line.unit_price if priced else None,
        ContractedUnitPrice=line.unit_price if priced else None,
        PricingCategory="Standard" if priced else None,
        PublisherName=publishers.get(model or "", document.seller.name),
        ResourceId=subject,
        ResourceName=subject,
        ResourceType=("Model" if model else "Tool") if subject else None,
        SkuId=str(line.price_id) if line.price_id else None,
        SkuMeter=line.component,
        SkuPriceId=str(line.price_id) if line.price_id else None,
        SubAccountId=str(line.subscription_id) if line.subscription_id else None,
        Tags=json.dumps(tags) if tags else None,
    )


def _tax(document: InvoiceDocument | CreditNoteDocument, tax: TaxAmount, common: _Common, sign: int) -> FocusRow:
    amount = sign * tax.tax
    return FocusRow(
        **common,
        BilledCost=amount,
        EffectiveCost=amount,
        ListCost=amount,
        ContractedCost=amount,
        ChargeCategory="Tax",
        ChargeClass="Correction" if sign < 0 else None,
        ChargeDescription=f"VAT {(tax.rate * 100).normalize():f} %",
        ChargeFrequency="One-Time",
        ChargePeriodStart=common["BillingPeriodStart"],
        ChargePeriodEnd=common["BillingPeriodEnd"],
        ConsumedQuantity=None,
        ConsumedUnit=None,
        PricingQuantity=None,
        PricingUnit=None,
        ListUnitPrice=None,
        ContractedUnitPrice=None,
        PricingCategory=None,
        PublisherName=document.seller.name,
        ResourceId=None,
        ResourceName=None,
        ResourceType=None,
        SkuId=None,
        SkuMeter=None,
        SkuPriceId=None,
        SubAccountId=None,
        Tags=None,
    )


def _common(document: InvoiceDocument | CreditNoteDocument, period: tuple[datetime, datetime], service: str) -> _Common:
    return {
        "BillingAccountId": str(document.user_id),
        "BillingAccountName": document.buyer.name or None,
        "BillingAccountType": "Customer",
        "BillingCurrency": document.currency,
        "BillingPeriodStart": period[0],
        "BillingPeriodEnd": period[1],
        "InvoiceId": document.number or "",
        "InvoiceIssuerName": document.seller.name,
        "ProviderName": document.seller.name,
        "ServiceCategory": SERVICE_CATEGORY,
        "ServiceName": service,
        "ServiceSubcategory": SERVICE_SUBCATEGORY,
    }
