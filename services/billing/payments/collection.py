"""Collects what is due: charges or reminds by the schedule, marks what is overdue, suspends at the end, and lets go when all is paid.

Each invoice has a transaction of its own; a step is a row, unique by invoice and number, so that two workers make it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from services.billing.amounts import amount_text
from services.billing.events import INVOICE_OVERDUE
from services.billing.payments import store
from services.billing.payments.charging import CHARGING, ask_charge, begin_charge
from services.billing.payments.dunning import Made, Step, next_step
from services.billing.payments.invoice_state import apply_leftovers, lock_invoice, owed
from services.billing.payments.providers import Providers
from services.billing.payments.store import SQL, Payment
from shared.clock import Clock
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.payments")

AT_ONCE: Final = 200
"""Invoices that are looked up at once."""

One = Callable[[UUID, UUID], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Collecting:
    """Dunning with this installation's schedule. `suspends`: whether it ends with a suspension."""

    pool: Pool
    providers: Providers
    clock: Clock
    days: Sequence[int]
    suspends: bool = True

    async def dun(self) -> dict[str, int]:
        """Make the steps that are due; return counts by what was done, failures under `failed`."""
        before = self.clock.now() - timedelta(days=self.days[0])
        done = await self._each("due_invoices", (before,), self._dun_one)
        async with transaction(self.pool) as connection:
            await connection.execute(SQL["act_as"], store.ACTOR)
            if lifted := await connection.fetch(SQL["reactivate"], None):
                done["reactivated"] = len(lifted)
        return done

    async def mark_overdue(self) -> dict[str, int]:
        """Mark invoices past their due date, once they were charged in vain or cannot be charged; return counts."""
        return await self._each("overdue_invoices", (self.clock.now(),), self._mark_one, CHARGING)

    async def _each(self, query: str, first: tuple[Any, ...], one: One, *more: Any) -> dict[str, int]:
        done: Counter[str] = Counter()
        after: UUID | None = None
        while True:
            async with self.pool.acquire() as connection:
                rows = await connection.fetch(SQL[query], *first, after, AT_ONCE, *more)
            for row in rows:
                try:
                    done[await one(row["id"], row["user_id"])] += 1
                except asyncpg.PostgresError as error:  # one invoice must not hold up the others
                    log.error("collection_failed", invoice=str(row["id"]), error=repr(error), then="it is tried again")
                    done["failed"] += 1
            if len(rows) < AT_ONCE:
                return {name: count for name, count in done.items() if name}
            after = rows[-1]["id"]

    async def _dun_one(self, invoice_id: UUID, user_id: UUID) -> str:
        async with transaction(self.pool) as connection:
            await store.begin(connection, user_id)
            await apply_leftovers(connection, invoice_id, at=self.clock.now())
            step = await self._step(connection, invoice_id)
            if step is None:
                return ""
            made = await self._make(connection, invoice_id, step)
        if made is None:
            return step.action
        after = await ask_charge(self.pool, self.providers, made, clock=self.clock)
        return {"completed": "paid", "failed": "declined"}.get(after.status, "under way")

    async def _step(self, connection: Connection, invoice_id: UUID) -> Step | None:
        """Return the step that is due about an invoice that is now locked."""
        invoice = await lock_invoice(connection, invoice_id)
        under_way = await connection.fetchval(SQL["open_charge"], invoice_id)
        if owed(invoice).outstanding == 0 or under_way or invoice["disputed_at"]:
            return None
        last = await connection.fetchrow(SQL["last_attempt"], invoice_id)
        method = await connection.fetchrow(SQL["chargeable_method"], invoice["user_id"], CHARGING)
        step = next_step(
            self.days,
            invoice["due_date"],
            Made(last["step"], last["action"], last["made_at"]) if last else None,
            chargeable=method is not None,
            suspend=self.suspends,
        )
        return step if step and step.due_at <= self.clock.now() else None

    async def _make(self, connection: Connection, invoice_id: UUID, step: Step) -> Payment | None:
        """Record a step and do what it says; return the charge that is to be asked for, if it is one."""
        now = self.clock.now()
        made = None
        if step.action == "charge":
            made = await begin_charge(
                connection, self.providers, invoice_id, key=f"invoice:{invoice_id}:step:{step.number}", at=now
            )
        payment_id = made.id if made else None
        await connection.fetchval(
            SQL["make_attempt"], invoice_id, step.number, step.action, step.due_at, now, payment_id
        )
        invoice = await lock_invoice(connection, invoice_id)
        if step.action == "remind":
            await self._alert(connection, invoice, f"reminder {step.number + 1}", "is to be paid")
        elif step.action == "suspend":
            await connection.fetch(SQL["suspend_postpaid"], invoice["user_id"])
        return made

    async def _mark_one(self, invoice_id: UUID, user_id: UUID) -> str:
        async with transaction(self.pool) as connection:
            await store.begin(connection, user_id)
            await apply_leftovers(connection, invoice_id, at=self.clock.now())
            invoice = await lock_invoice(connection, invoice_id)
            if invoice["status"] not in ("sent", "partially_paid") or owed(invoice).outstanding == 0:
                return ""
            await connection.execute(SQL["set_invoice_state"], invoice_id, invoice["paid"], "overdue", None)
            await self._alert(connection, invoice, "overdue", "is overdue")
            await store.announce(connection, INVOICE_OVERDUE, user_id, self.clock.now(), _facts(invoice))
        return "overdue"

    async def _alert(self, connection: Connection, invoice: Any, cause: str, words: str) -> None:
        asked = owed(invoice).outstanding
        message = (
            f"Invoice {invoice['number']} {words}: {amount_text(asked)} {invoice['currency']}, "
            f"due on {invoice['due_date']:%Y-%m-%d}."
        )
        full = f"invoice {invoice['id']}" + ("" if cause == "overdue" else f", {cause}")
        await store.alert(
            connection,
            invoice["user_id"],
            "invoice_overdue",
            cause=full,
            message=message,
            value=asked,
            facts=_facts(invoice),
        )


def _facts(invoice: Any) -> dict[str, str]:
    return {
        "invoice": str(invoice["id"]),
        "number": invoice["number"],
        "currency": invoice["currency"],
        "outstanding": amount_text(owed(invoice).outstanding),
        "due_date": invoice["due_date"].isoformat(),
    }
