"""Whether a worker that was given no partitions was meant to have none.

A worker beyond the number of partitions is a spare, and well. But a static member that starts again gets back what it had,
and that is nothing if the topic was missing at that moment; nobody then looks at the topic again. So a member without
partitions asks its group who has which, and joins it anew while some belong to nobody.

aiokafka has no seam for it: this module is the one place that reaches into its coordinator.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DescribeGroupsRequest

log = structlog.get_logger("consumer")

STABLE = "Stable"
PATIENCE = 3
"""Looks in a row that find partitions without an owner, before the member gives up its name in the group and takes a new one."""


@dataclass(slots=True)
class Membership:
    """A worker's place in the group that reads `topic`. `problem` says why it is not ready, `lost` why only a restart helps."""

    group_id: str
    topic: str
    problem: str | None = None
    lost: str | None = None
    _found: int = 0

    async def look(self, consumer: AIOKafkaConsumer, *, idle: bool) -> None:
        """See whether the client still takes part in its group and, if `idle`, whether partitions lie idle as well."""
        if consumer._coordinator._coordination_task.done():
            self.lost = f"{self.topic}: the client has left the group {self.group_id} and does not come back"
            return
        unowned = await self._unowned(consumer) if idle else ()
        if not unowned:
            self.problem, self._found = None, 0
            return
        self._found += 1
        self.problem = (
            f"{self.topic}: nobody in the group {self.group_id} has partitions {', '.join(map(str, unowned))}"
        )
        log.warning("partitions_without_owner", topic=self.topic, partitions=unowned, then="the group is joined anew")
        if self._found % PATIENCE:
            consumer._coordinator.request_rejoin()
        else:
            consumer._coordinator.reset_generation()

    async def _unowned(self, consumer: AIOKafkaConsumer) -> Collection[int]:
        """Return the partitions that nobody has; none while the group is about to share them out, or does not answer."""
        try:
            await consumer._client.force_metadata_update()
            partitions = consumer.partitions_for_topic(self.topic) or set()
            owned = await self._owned(consumer)
        except KafkaError as error:
            log.debug("group_does_not_answer", group=self.group_id, error=repr(error))
            return ()
        return () if owned is None else sorted(partitions - owned)

    async def _owned(self, consumer: AIOKafkaConsumer) -> set[int] | None:
        coordinator = consumer._coordinator
        if coordinator.coordinator_id is None:
            return None
        answer = await consumer._client.send(
            coordinator.coordinator_id,
            DescribeGroupsRequest(groups=[self.group_id], include_authorized_operations=False),
            group=ConnectionGroup.COORDINATION,
        )
        _error, _group, state, _type, _protocol, members, *_ = answer.groups[0]
        if state != STABLE:
            return None
        owned: set[int] = set()
        for *_, assignment in members:
            for topic, partitions in ConsumerProtocol.ASSIGNMENT.decode(assignment).assignment if assignment else ():
                if topic == self.topic:
                    owned.update(partitions)
        return owned
