"""What billing announces on `billing.events` (pure): CloudEvents, written to the outbox in the transaction of their effect."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

from shared.contracts import BILLING_EVENTS, CLOUDEVENT_HEADERS, BillingEvent, encode
from shared.ids import uuid7
from shared.outbox import Message

CREDITS_LOW: Final = "tallystick.credits.low.v1"
CREDITS_EXHAUSTED: Final = "tallystick.credits.exhausted.v1"
CREDITS_TOPUP_REQUESTED: Final = "tallystick.credits.topup_requested.v1"
INVOICE_ISSUED: Final = "tallystick.invoice.issued.v1"
INVOICE_VOIDED: Final = "tallystick.invoice.voided.v1"
INVOICE_DISPUTED: Final = "tallystick.invoice.disputed.v1"
CREDIT_NOTE_ISSUED: Final = "tallystick.credit_note.issued.v1"
INVOICE_PAID: Final = "tallystick.invoice.paid.v1"
INVOICE_OVERDUE: Final = "tallystick.invoice.overdue.v1"
PAYMENT_FAILED: Final = "tallystick.payment.failed.v1"
PAYMENT_REFUNDED: Final = "tallystick.payment.refunded.v1"
PAYMENT_DISPUTED: Final = "tallystick.payment.disputed.v1"
SPEND_THRESHOLD: Final = "tallystick.spend.threshold.v1"
QUOTA_THRESHOLD: Final = "tallystick.quota.threshold.v1"
SUBSCRIPTION_EXPIRING: Final = "tallystick.subscription.expiring.v1"
USAGE_UNRATED: Final = "tallystick.usage.unrated.v1"
PROVIDER_KEY_DUE: Final = "tallystick.provider_key.due.v1"
WEBHOOK_DISABLED: Final = "tallystick.webhook.disabled.v1"

# docs/reference/events.md shows the body of each.
EventType = Literal[
    "tallystick.credits.low.v1",
    "tallystick.credits.exhausted.v1",
    "tallystick.credits.topup_requested.v1",
    "tallystick.invoice.issued.v1",
    "tallystick.invoice.voided.v1",
    "tallystick.invoice.disputed.v1",
    "tallystick.credit_note.issued.v1",
    "tallystick.invoice.paid.v1",
    "tallystick.invoice.overdue.v1",
    "tallystick.payment.failed.v1",
    "tallystick.payment.refunded.v1",
    "tallystick.payment.disputed.v1",
    "tallystick.spend.threshold.v1",
    "tallystick.quota.threshold.v1",
    "tallystick.subscription.expiring.v1",
    "tallystick.usage.unrated.v1",
    "tallystick.provider_key.due.v1",
    "tallystick.webhook.disabled.v1",
]
EVENT_TYPES: Final[tuple[str, ...]] = get_args(EventType)
"""Every type that is announced on `billing.events`. The aggregator announces tallystick.quota.threshold.v1 as well."""


def billing_event(kind: EventType, user_id: UUID, occurred_at: datetime, data: dict[str, Any]) -> Message:
    """Return the message of an event about a user. Its id is stable: redelivery repeats it. Amounts in `data` are exact text."""
    message_id = uuid7()
    body = BillingEvent(id=str(message_id), type=kind, time=occurred_at, subject=str(user_id), data=data)
    return Message(
        topic=BILLING_EVENTS, key=str(user_id).encode(), value=encode(body), headers=CLOUDEVENT_HEADERS, id=message_id
    )
