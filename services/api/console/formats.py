"""Numbers, amounts and times in the notation of a language (pure)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from babel import Locale
from babel.dates import format_date, format_datetime, format_timedelta
from babel.numbers import format_compact_decimal, format_currency, format_decimal, format_percent

_CENT: Final = Decimal("0.01")
NONE: Final = "–"
"""What is shown where there is no value."""


class Formats:
    """The notations of one language. None is shown as a dash by each of them."""

    def __init__(self, language: str) -> None:
        self.locale = "en_GB" if language == "en" else language

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return them by the names that templates know."""
        return {
            "money": self.money, "credits": self.credits, "number": self.number, "compact": self.compact,
            "percent": self.percent, "date": self.date, "datetime_": self.moment, "ago": self.ago, "month": self.month,
        }  # fmt: skip

    def money(self, amount: Decimal | None, currency: str) -> str:
        """Return an amount of a currency; one of less than a cent with as many digits as it needs, up to 6."""
        if amount is None:
            return NONE
        if 0 < abs(amount) < _CENT:
            usual = Locale.parse(self.locale).currency_formats["standard"].pattern
            finer = usual.replace("0.00", "0.00####")
            return format_currency(amount, currency, finer, locale=self.locale, currency_digits=False)
        return format_currency(amount, currency, locale=self.locale)

    def credits(self, amount: Decimal | None) -> str:
        """Return credits: two digits, up to six where there are more."""
        if amount is None:
            return NONE
        pattern = "#,##0.00" if abs(amount) >= 1 else "#,##0.00####"
        return format_decimal(
            amount.quantize(Decimal("0.000001"), ROUND_HALF_UP), pattern, locale=self.locale, decimal_quantization=True
        )

    def number(self, value: Decimal | float | None) -> str:
        """Return a number with its groups of digits."""
        return NONE if value is None else format_decimal(value, locale=self.locale)

    def compact(self, value: float | None) -> str:
        """Return a number in short: 1.2M."""
        if value is None:
            return NONE
        locale = "en" if self.locale == "en_GB" else self.locale  # 1M, and not 1m
        return format_compact_decimal(value, locale=locale, fraction_digits=0 if abs(value) < 1000 else 1)

    def percent(self, share: float | None) -> str:
        """Return a share of one as per cent."""
        if share is None:
            return NONE
        usual = (
            Locale.parse(self.locale).percent_formats[None].pattern
        )  # German and French have a space before the sign
        return format_percent(share, usual.replace("##0", "##0.#"), locale=self.locale)

    def date(self, moment: datetime | None) -> str:
        """Return the day of a moment, in UTC."""
        return NONE if moment is None else format_date(moment, "medium", locale=self.locale)

    def month(self, moment: datetime) -> str:
        """Return the month of a moment, in UTC."""
        return format_date(moment, "LLLL y", locale=self.locale)

    def moment(self, moment: datetime | None) -> str:
        """Return a moment, in UTC."""
        return NONE if moment is None else format_datetime(moment, "d MMM y, HH:mm", locale=self.locale)

    def ago(self, moment: datetime | None, now: datetime) -> str:
        """Return how long ago a moment was, or how long it is until it comes."""
        return NONE if moment is None else format_timedelta(moment - now, add_direction=True, locale=self.locale)


def spelt(value: Any) -> str:
    """Return a value as forms and scripts take it: without any notation."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, datetime) else str(value)
