"""What is on an invoice (pure): usage, charges of plans and what was carried over, gathered by customer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from services.billing.customer import Customer
from services.billing.invoices.lines import Line, UsageGroup, charge_line, usage_lines
from services.billing.plans.charge import Charge
from shared.period import Period


def compose(
    period: Period,
    drafts: Mapping[UUID, Customer],
    groups: Iterable[UsageGroup],
    charges: Mapping[Customer, Sequence[Charge]],
    carried: Mapping[Customer, Sequence[Line]],
    *,
    set_offs: Mapping[UUID, Sequence[Line]],
) -> dict[UUID, list[Line]]:
    """Return the lines of each draft that has any. What was carried over waits for a draft that has something else on it."""
    lines: dict[UUID, list[Line]] = {}
    for id_, customer in drafts.items():
        if charged := charges.get(customer):
            lines[id_] = [charge_line(charge) for charge in charged]
    for group in groups:
        lines.setdefault(group.invoice_id, []).extend(usage_lines(group, period))
    for id_, found in lines.items():
        found.extend(set_offs.get(id_, ()))
        found.extend(carried.get(drafts[id_], ()))
    return lines


def claimed_since(groups: Iterable[UsageGroup]) -> dict[UUID, datetime]:
    """Return for each subscription with usage in `groups` from when on that is: before the period it is late."""
    since: dict[UUID, datetime] = {}
    for group in groups:
        at = since.get(group.subscription_id)
        since[group.subscription_id] = group.period_start if at is None else min(at, group.period_start)
    return since
