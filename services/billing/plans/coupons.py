"""Coupons (pure): what they take off fees and usage, and for which intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from services.billing.amounts import amount_text
from services.billing.plans.charge import Charge
from services.billing.plans.fees import Due
from services.billing.plans.timeline import Interval, Redemption
from services.billing.plans.windows import Target
from shared.money import exact

_PERCENT: Final = Decimal("0.01")

InForce = Mapping[datetime, Sequence[Redemption]]
"""Redemptions by the beginning of the intervals that they count for, in the order in which they were redeemed."""


def in_force(redemptions: Sequence[Redemption], intervals: Sequence[Interval]) -> InForce:
    """Return which redemptions count for which interval: the first ones that begin once redeemed, trials not counted."""
    found: dict[datetime, list[Redemption]] = {}
    for redemption in redemptions:
        counted = [
            i for i in intervals if i.begins >= redemption.redeemed_at and any(s.phase == "live" for s in i.spans)
        ]
        for interval in counted[: redemption.periods]:
            found.setdefault(interval.begins, []).append(redemption)
    return found


def off_fee(due: Due, redemptions: Sequence[Redemption]) -> Iterator[Due]:
    """Yield what redemptions take off a fee, or put back for a credited one: each of what the one before it has left."""
    left = due.charge.amount
    for redemption in redemptions:
        taken = _taken(redemption, left, due.currency)
        if taken:
            with exact():
                left -= taken
            yield due._replace(charge=_discount(due.charge, redemption, taken))


def off_usage(redemptions: Sequence[Redemption], amount: Decimal, currency: str) -> Iterator[Target]:
    """Yield what redemptions take off the usage and overage of a window; nothing is yielded for what has no coupon."""
    left = amount
    for redemption in redemptions:
        if redemption.fee_only:
            continue
        taken = _taken(redemption, left, currency)
        with exact():
            left -= taken
        yield Target(
            "discount",
            f"discount.{redemption.code}",
            _name(redemption, "usage"),
            currency,
            -taken,
            metadata={"coupon": redemption.code},
        )


def _taken(redemption: Redemption, amount: Decimal, currency: str) -> Decimal:
    with exact():
        if redemption.percent is not None:
            return amount * redemption.percent * _PERCENT
        if redemption.amount_off is None or redemption.currency != currency or amount <= 0:
            return Decimal(0)
        return min(redemption.amount_off, amount)


def _discount(fee: Charge, redemption: Redemption, taken: Decimal) -> Charge:
    return replace(
        fee,
        kind="discount",
        key=f"discount:{redemption.code}:{fee.key}",
        description=_name(redemption, fee.description),
        unit="discount",
        unit_price=-taken,
        amount=-taken,
        metadata={**fee.metadata, "coupon": redemption.code},
    )


def _name(redemption: Redemption, what: str) -> str:
    off = f"{amount_text(redemption.percent)} %" if redemption.percent is not None else (
        f"{amount_text(redemption.amount_off or Decimal(0))} {redemption.currency}"
    )  # fmt: skip
    return f"{redemption.name}: {off} off {what}"
