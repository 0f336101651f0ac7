"""Verification and healing of summaries and counters, while traffic flows.

What is stored stands for exactly the batches whose messages the aggregator has applied, so only their rows of the log
are added up: one that is stored but not applied yet is on its way and will be added on top.

`verify` sees that in one snapshot, because the aggregator commits a message's inbox row, summaries and counters together.
`heal` holds the rows of the subscriptions that it writes, which whoever applies usage of theirs takes first:
- an aggregator that came first has committed when the lock is granted, and every statement after that sees its batch
  both in the inbox and in the summaries (READ COMMITTED: a snapshot from before the wait would miss it, and the healing
  would undo it);
- one that comes later waits with its inbox rows uncommitted, so its batch is left out, and adds it to what was healed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.aggregator.rebuild import store
from services.aggregator.rebuild.differences import Findings, counted
from services.aggregator.rebuild.scope import Scope
from shared.postgres import Connection

SHOWN = 1_000
"""Most differences that are returned one by one; all are counted, and all are healed."""
LOOKS = 10
"""How often verification looks again while a batch is applied in part."""
LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Healed:
    """What was written: summary rows and subscriptions' counters. `left_out` are subscriptions that were not touched."""

    summaries: int
    counters: int
    left_out: Sequence[UUID] = ()


async def verify(connection: Connection, scope: Scope) -> Findings:
    """Compare a scope with the log, in one snapshot and without a lock that anybody else would wait for.

    Changes nothing. `connection` must not be in a transaction.
    """
    for _ in range(LOOKS - 1):
        findings = await _look(connection, scope)
        if not findings.left_out:
            return findings
        await asyncio.sleep(LOOK_AGAIN_SECONDS)  # the rest of a batch is applied within moments
    return await _look(connection, scope)


async def _look(connection: Connection, scope: Scope) -> Findings:
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        chosen = None if scope.subscription_id is None else [scope.subscription_id]
        await store.pin_partitions(connection)
        archived = await store.archived_months(connection, scope)
        left_out = await store.partly_applied(connection, scope, chosen)
        selected = store.Selection(scope, chosen, left_out, archived)
        events = await store.recompute(connection, selected)
        compared = await store.compare(connection, selected)
        others = [
            *await store.differing_counters(connection, selected),
            *await store.differing_key_days(connection, selected),
        ]
        summaries = await store.first_differences(connection, SHOWN)
        return Findings(
            events=events,
            compared=compared,
            counts=counted(await store.count_differences(connection), others),
            differences=[*summaries, *others[: SHOWN - len(summaries)]],
            subscriptions=sorted(
                {*await store.differing_subscriptions(connection), *(other.subscription_id for other in others)}
            ),
            left_out=left_out,
            archived=archived,
            negative=await store.negative_hours(connection, SHOWN),
        )
    finally:
        await transaction.rollback()


async def heal(connection: Connection, scope: Scope, subscriptions: Sequence[UUID]) -> Healed:
    """Compute summaries, counters and days of API keys of `subscriptions` within a scope anew and store what differs, in one transaction.

    It looks again under the lock: what changed since it was verified is judged as it is now. Running it again, or two at
    once, does no harm.
    """
    async with connection.transaction(isolation="read_committed"):
        await store.act_as_rebuild(connection)
        await store.wait_for_archiving(connection)
        locked = await store.lock_subscriptions(connection, subscriptions)
        left_out = await store.partly_applied(connection, scope, locked)
        selected = store.Selection(scope, locked, left_out, await store.archived_months(connection, scope))
        await store.recompute(connection, selected)
        await store.compare(connection, selected)
        counters = await store.differing_counters(connection, selected)
        summaries = await store.replace_summaries(connection)
        await store.set_counters(connection, counters)
        await store.replace_key_days(connection, selected)
    missing = sorted(set(subscriptions) - set(locked))
    return Healed(summaries, len(counters), [*left_out, *missing])
