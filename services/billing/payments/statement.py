"""Bank statements as CSV (pure): read whole or refused whole, each line with an identity that a second import recognises.

The first line names the columns, in any order; separated by comma or semicolon, UTF-8:

    booked_on     required  the day of booking, YYYY-MM-DD
    amount        required  with a point before the decimals; money going out is negative
    currency      required  ISO 4217
    reference     required  what the payer wrote; may be empty
    counterparty            who paid
    account                 which account of ours
    bank_id                 the bank's own id of the line: what identifies it, where it is given

Other columns are refused, so that a misspelt one is noticed.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Final

from services.billing.amounts import amount_text
from services.billing.payments.state import AmountRefused, checked_amount
from shared.errors import ConfigurationError

REQUIRED: Final = ("booked_on", "amount", "currency", "reference")
OPTIONAL: Final = ("counterparty", "account", "bank_id")
MOST_LINES: Final = 100_000
LONGEST_FIELD: Final = 1_000
"""Characters."""


class StatementRefused(ConfigurationError):
    """A statement cannot be read: names the line and what is wrong with it. Nothing of it is imported."""


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One line. `identity` is the bank's id, else a digest of what it says and its place among lines of the file that say the same."""

    line_number: int
    identity: str
    booked_on: date
    amount: Decimal
    currency: str
    reference: str
    counterparty: str
    account: str
    bank_id: str | None


def read_statement(text: str) -> list[StatementLine]:
    """Return the lines of a statement. Raises `StatementRefused`."""
    header, _, _ = text.lstrip("\ufeff").partition("\n")
    delimiter = ";" if header.count(";") > header.count(",") else ","
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    try:
        _check_columns([name.strip() for name in rows.fieldnames or ()])
        lines = list(_lines(rows))
    except csv.Error as error:
        raise StatementRefused(f"line {rows.line_num}: not CSV ({error})") from None
    if len(lines) > MOST_LINES:
        raise StatementRefused(
            f"{len(lines):,} lines are more than the {MOST_LINES:,} that one import takes: split the file"
        )
    _refuse_repeated_ids(lines)
    return lines


def _check_columns(columns: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown or len(set(columns)) != len(columns):
        problem = (
            f"has no column {', '.join(missing)}"
            if missing
            else f"has the unknown column {', '.join(unknown)}"
            if unknown
            else "names a column twice"
        )
        raise StatementRefused(
            f"the statement {problem}: its first line names {', '.join(REQUIRED)}, and maybe {', '.join(OPTIONAL)}"
        )


def _lines(rows: csv.DictReader[str]) -> Iterator[StatementLine]:
    seen: Counter[str] = Counter()
    for row in rows:
        number = rows.line_num
        if None in row or None in row.values():
            raise StatementRefused(f"line {number}: it has not as many fields as the first line")
        fields = {name.strip(): text.strip() for name, text in row.items()}
        if longest := [name for name, text in fields.items() if len(text) > LONGEST_FIELD or "\x00" in text]:
            raise StatementRefused(f"line {number}: {longest[0]} is longer than {LONGEST_FIELD} characters or not text")
        content = _content(fields, number)
        seen[content] += 1
        yield _line(fields, number, content, seen[content])


def _line(fields: Mapping[str, str], number: int, content: str, place: int) -> StatementLine:
    account, bank_id = fields.get("account", ""), fields.get("bank_id") or None
    said = hashlib.sha256(content.encode()).hexdigest()[:32]
    return StatementLine(
        line_number=number,
        identity=f"bank:{account}:{bank_id}" if bank_id else f"line:{said}:{place}",
        booked_on=_date(fields["booked_on"], number),
        amount=_amount(fields["amount"], fields["currency"], number),
        currency=fields["currency"],
        reference=fields["reference"],
        counterparty=fields.get("counterparty", ""),
        account=account,
        bank_id=bank_id,
    )


def _content(fields: Mapping[str, str], number: int) -> str:
    """Return what a line says, spelled in one way: the same line exported again says the same."""
    amount = amount_text(_amount(fields["amount"], fields["currency"], number))
    said = [fields.get(name, "") for name in ("booked_on", "currency", "reference", "counterparty", "account")]
    return "\x1f".join([amount, *(" ".join(text.split()) for text in said)])


def _date(text: str, number: int) -> date:
    try:
        if len(text) == len("2026-11-21"):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise StatementRefused(f"line {number}: '{text}' is not a day; write it like 2026-11-21")


def _amount(text: str, currency: str, number: int) -> Decimal:
    if not (len(currency) == 3 and currency.isascii() and currency.isupper() and currency.isalpha()):
        raise StatementRefused(f"line {number}: '{currency}' is not a currency; write it like EUR")
    try:
        amount = Decimal(text)
        if amount.is_finite():
            checked_amount(abs(amount), currency)
            return amount
    except InvalidOperation:
        pass
    except AmountRefused as error:
        raise StatementRefused(f"line {number}: {error}") from None
    raise StatementRefused(f"line {number}: '{text}' is not an amount; write it like 1234.56")


def _refuse_repeated_ids(lines: list[StatementLine]) -> None:
    first: dict[str, StatementLine] = {}
    for line in lines:
        earlier = first.setdefault(line.identity, line)
        if earlier is not line:
            raise StatementRefused(
                f"line {line.line_number}: bank_id {line.bank_id} is that of line {earlier.line_number} already"
            )
