"""The lane of webhooks: claims what is due, makes the requests with no transaction open, records what came of them.

At least once: a worker that dies with a request under way leaves a delivery that another one takes up. The id stays the same, so that
receivers can tell a repetition.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import structlog

from services.billing import metrics
from services.billing.events import WEBHOOK_DISABLED, billing_event
from services.billing.notices import deliveries, endpoints
from services.billing.notices.alerts import Alert, raise_alerts
from services.billing.notices.deliveries import Claimed
from services.billing.notices.retrying import Attempted, Policy, judge, why_disable
from services.billing.notices.sending import Sender
from services.billing.notices.signing import Keyring, SecretUnreadable, headers
from shared.clock import Clock
from shared.outbox import Outbox
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.webhooks")

PER_ENDPOINT = 4
"""Deliveries of one endpoint that a worker claims at once: a slow endpoint does not take all the places."""
GRACE = timedelta(seconds=20)
"""Longer than a request may take, a worker has to record what came of it. Then another one takes the delivery up."""


@dataclass(slots=True)
class WebhookDelivery:
    """Delivers what is due until nothing is; the next call goes on. One that is cancelled has `patience` with what is on its way."""

    pool: Pool
    clock: Clock
    outbox: Outbox
    sender: Sender
    keys: Keyring
    policy: Policy
    timeout: timedelta
    concurrency: int = 16
    poll: timedelta = timedelta(seconds=1)
    patience: timedelta = timedelta(seconds=3)
    dice: Callable[[], float] = random.random
    _under_way: dict[asyncio.Task[None], UUID] = field(default_factory=dict)

    async def __call__(self) -> None:
        """Make all deliveries that are due, and those that become due meanwhile."""
        try:
            while True:
                began = await self._begin()
                if not self._under_way:
                    break
                full = len(self._under_way) >= self.concurrency
                if not began or full:
                    await asyncio.wait(
                        self._under_way, timeout=self.poll.total_seconds(), return_when=asyncio.FIRST_COMPLETED
                    )
        except asyncio.CancelledError:
            await self._abandon()
            raise
        await self._report()

    async def _begin(self) -> int:
        free = self.concurrency - len(self._under_way)
        if free <= 0:
            return 0
        now = self.clock.now()
        async with transaction(self.pool) as connection:
            claimed = await deliveries.claim(
                connection,
                now,
                limit=free,
                per_endpoint=PER_ENDPOINT,
                under_way=Counter(self._under_way.values()),
                until=now + self.timeout + GRACE,
            )
        for one in claimed:
            task = asyncio.create_task(self._deliver(one), name=f"webhook {one.id}")
            self._under_way[task] = one.endpoint_id
            task.add_done_callback(self._ended)
        return len(claimed)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        if not task.cancelled() and (error := task.exception()):
            log.warning("delivery_not_recorded", error=repr(error), then="it is made again")

    async def _deliver(self, claimed: Claimed) -> None:
        attempted = await self._attempt(claimed)
        now = self.clock.now()
        failed = attempted.outcome != "delivered"
        verdict = judge(attempted, claimed.failures + failed, now, self.policy, self.dice())
        async with transaction(self.pool) as connection:
            await deliveries.record(connection, claimed, attempted, verdict, now)
            if failed:
                await self._judge_endpoint(connection, claimed, attempted)
        metrics.WEBHOOK_ATTEMPTS.labels(attempted.outcome).inc()
        metrics.WEBHOOK_SECONDS.observe(attempted.latency.total_seconds())
        if verdict.status == "failed":
            metrics.WEBHOOKS_GIVEN_UP.inc()
            log.error(
                "webhook_given_up", delivery=str(claimed.id), endpoint=str(claimed.endpoint_id), detail=attempted.detail
            )

    async def _attempt(self, claimed: Claimed) -> Attempted:
        try:
            sealed = (claimed.encrypted_secret, claimed.encrypted_previous_secret)
            signing = [self.keys.open(secret) for secret in sealed if secret]
        except SecretUnreadable as error:
            return Attempted("unsigned", timedelta(0), detail=str(error))
        signed = headers(claimed.message_id, self.clock.now(), claimed.body, signing)
        return await self.sender.post(claimed.url, signed, claimed.body)

    async def _judge_endpoint(self, connection: Connection, claimed: Claimed, attempted: Attempted) -> None:
        """Count the failure; disable an endpoint that has failed too long, and tell its user and everybody who listens."""
        now = self.clock.now()
        failures, since, enabled = await deliveries.count_failure(connection, claimed.endpoint_id, now)
        why = why_disable(attempted, failures, since, now, self.policy)
        if not enabled or why is None or attempted.outcome == "unsigned":
            return
        await endpoints.disable(connection, claimed.endpoint_id, at=now, reason=why)
        message = f"Events are not sent to {claimed.url} any more: {why}. Enable it again when it works."
        if claimed.user_id:
            alert = Alert(
                claimed.user_id, "webhook_disabled", f"endpoint {claimed.endpoint_id} {now.isoformat()}", message
            )
            await raise_alerts(connection, [alert])
        data = {
            "endpoint": str(claimed.endpoint_id),
            "url": claimed.url,
            "reason": why,
            "failing_since": since.isoformat(),
        }
        subject = claimed.user_id or claimed.endpoint_id
        await self.outbox.enqueue(connection, [billing_event(WEBHOOK_DISABLED, subject, now, data)])
        log.error("webhook_endpoint_disabled", endpoint=str(claimed.endpoint_id), reason=why)

    async def _abandon(self) -> None:
        """Let what is nearly done end, and break off the rest: whoever takes that up after its time repeats it."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self.patience.total_seconds())
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _report(self) -> None:
        async with self.pool.acquire() as connection:
            metrics.report_webhooks(*await deliveries.backlog(connection, self.clock.now()))
