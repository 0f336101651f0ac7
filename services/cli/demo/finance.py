"""What finance sees at the end of the demo: an invoice as a document, what late usage becomes, why a line is what it is, and what
another price would have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from rich.markup import escape

from services.billing.amounts import amount_text
from services.billing.invoices.preview import preview as preview_invoice
from services.billing.provenance import explain_line
from services.billing.rating.price_file import NewPrice
from services.billing.rating.store import read_price_book
from services.billing.reconciliation import Check
from services.billing.reprice import preview as preview_reprice
from services.billing.reprice.changes import totals
from services.cli.checks import number
from services.cli.demo import report
from services.cli.demo.display import Display
from services.cli.demo.outcome import Outcome
from services.cli.demo.world import QUERIES
from shared.period import HOUR, Period, hour_start, month_start
from shared.postgres import Connection

DEARER: Final = Decimal("1.1")
"""By what the price that is tried differs."""
EVENTS_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Finance:
    """Shows one invoice of last month from all sides."""

    connection: Connection
    display: Display
    now: datetime
    documents: Path

    async def show(self, outcome: Outcome) -> list[Check]:
        """Print everything; return what it proves."""
        invoice = await self.connection.fetchrow(QUERIES["an_invoice"])
        self.display.chapter("One of the invoices")
        if invoice is None:
            self.display.say("no invoice over an amount is issued")
            return []
        await report.show_invoice(self.display.console, self.connection, invoice)
        outcome.invoice_file = await self._document(invoice["number"])
        outcome.adjustments = await self._adjustments(invoice)
        explained = await self._explanation(invoice)
        await self._other_price(invoice)
        return explained

    async def _document(self, number: str) -> str | None:
        """Write the invoice as a PDF; return where it is."""
        try:
            from services.billing.documents.reading import read_document  # noqa: PLC0415 (an extra)
            from services.billing.documents.rendering import render  # noqa: PLC0415
        except ImportError:
            self.display.say("as a PDF: install 'tallystick[documents]'")
            return None
        (content,) = render(await read_document(self.connection, number), "pdf")
        self.documents.mkdir(parents=True, exist_ok=True)
        file = self.documents / f"{number}.pdf"
        file.write_bytes(content)
        self.display.say(f"as a PDF: {file}")
        return str(file)

    async def _adjustments(self, invoice: Mapping[str, Any]) -> int:
        """Print what last month's late usage is on the invoice of the running month; return how many lines."""
        self.display.chapter("What came after the invoice is on the next one")
        month = Period.month_of(self.now)
        lines = []
        for coming in await preview_invoice(self.connection, invoice["user_id"], month, now=self.now):
            lines += [line for line in coming.invoice.lines if line.kind == "adjustment"]
            forecast = "" if coming.forecast is None else f", {number(coming.forecast)} by the end of it"
            self.display.say(
                f"{month.start:%B} comes to {number(coming.invoice.total)} {coming.invoice.currency} so far{forecast}"
            )
        for line in lines:
            amount = f"{amount_text(line.exact_amount)} {invoice['currency']}"
            self.display.console.print(
                f"  adjustment: {escape(line.description)}: {number(line.quantity)} {line.unit}s, {amount}",
                highlight=False,
            )
        if not lines:
            self.display.say("nothing came late")
        return len(lines)

    async def _explanation(self, invoice: Mapping[str, Any]) -> list[Check]:
        """Print why the largest line is what it is, down to its events; return whether they sum to it."""
        line = await self.connection.fetchrow(QUERIES["largest_usage_line"], invoice["id"])
        if line is None:
            return []
        name = f"{invoice['number']}/{line['position']}"
        self.display.chapter(f"Why is line {line['position']} what it is? tallystick explain {name}")
        found = await explain_line(self.connection, line["id"], events_shown=EVENTS_SHOWN)
        say = self.display.console.print
        say(f"{escape(found.title)}: {amount_text(found.stated)} {found.currency}", highlight=False)
        for used in found.prices:
            say(
                f"  price {used.price.id}, valid from {used.price.valid_from:%Y-%m-%d}, times {used.multiplier}: "
                f"{number(used.events)} events",
                highlight=False,
            )
        for origin in found.origins[:EVENTS_SHOWN]:
            place = f"{origin['topic']}[{origin['partition']}]"
            say(f"  from {escape(place)}, offsets {origin['first_offset']} to {origin['next_offset']}", highlight=False)
        for event in found.events:
            say(
                f"  {event['created_at']:%Y-%m-%d %H:%M:%S}  {event['source']}  {event['request_id']}: {event['request_tokens']} "
                f"and {event['response_tokens']} tokens",
                highlight=False,
            )
        say(
            f"  … {number(found.event_count)} events in all, rated anew: {amount_text(found.recomputed)}",
            highlight=False,
        )
        return [
            Check(
                "explained: the largest line",
                "The events behind a line, rated anew, sum to it to the last digit.",
                "on the invoice",
                found.stated,
                "by its events",
                found.recomputed,
                tuple(found.problems),
            )
        ]

    async def _other_price(self, invoice: Mapping[str, Any]) -> None:
        """Print what a dearer price of the most used model would have done, to last month and this one."""
        line = await self.connection.fetchrow(QUERIES["largest_usage_line"], invoice["id"])
        if line is None:
            return
        book = await read_price_book(self.connection, Decimal(0))
        price = next(price for price in book.prices if price.id == line["price_id"])
        dearer = NewPrice(
            price.kind, price.subject, price.currency, price.input_per_1k * DEARER, price.output_per_1k * DEARER,
            price.cached_input_per_1k * DEARER, price.per_request * DEARER, bills_errors=price.bills_errors,
        )  # fmt: skip
        last_month = month_start(month_start(self.now) - timedelta(days=1))
        period = Period(last_month, hour_start(self.now) + HOUR)
        self.display.chapter(f"What if {price.subject} had cost 10 % more? tallystick reprice --dry-run")
        seen = await preview_reprice(self.connection, period, [dearer])
        for currency, (before, after) in totals(seen.changes).items():
            self.display.say(
                f"{number(len(seen.changes))} lines of {number(len({c.user_id for c in seen.changes}))} customers: "
                f"{amount_text(before)} {currency} would have been {amount_text(after)}; nothing is changed"
            )
