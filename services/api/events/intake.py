"""What happens to events that come over HTTP: judged, attributed, published, told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import asyncpg
import msgspec
import structlog
from msgspec import UNSET, Struct, UnsetType

from services.api import metrics
from services.api.auth.principal import Principal
from services.api.events.publishing import Publisher
from services.api.events.tenancy import NOT_YOURS, Claim, NotYours, Tenant, claim, signed
from services.api.problems import FORBIDDEN, UNAVAILABLE, Problem
from services.ingest.acceptance import Correction, Limits, Reason, Rejected, accept
from services.ingest.attribution import CACHE_ENTRIES, Attribution, Attributor, Name, Owner, malformed, name_of
from services.ingest.recent import RecentEvents
from shared.clock import Clock
from shared.contracts import MAX_STRING, UsageEvent
from shared.corrections import VoidEvent
from shared.ids import event_key
from shared.postgres import UNREACHABLE, Pool

log = structlog.get_logger("api.events")

_LOOK_UP_SECONDS: Final = 2.0
"""How long the database may take to say whose events these are, before they are published without that."""


class Result(Struct, omit_defaults=True, gc=False):
    """What became of one event. `reason` is of docs/reference/quarantine.md, or `not_yours`."""

    index: int
    id: str | None
    status: Literal["accepted", "duplicate", "rejected"]
    reason: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class Taken(Struct, frozen=True):
    """What became of the events of a request."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[Result]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an event is not published."""

    reason: str
    detail: str
    id: str | None = None


Event: TypeAlias = UsageEvent | Correction


@dataclass(slots=True)
class Intake:
    """The way in of one process. `limits` are ingest's own."""

    pool: Pool
    publisher: Publisher
    limits: Limits
    clock: Clock
    _attributor: Attributor = field(default_factory=Attributor)
    _keys: dict[Name, bytes] = field(default_factory=dict)
    _recent: RecentEvents = field(default_factory=RecentEvents)

    async def take(self, principal: Principal, values: Sequence[bytes]) -> Taken:
        """Publish the records that are usage events `principal` may report; return what became of each, once the broker has them.

        Raises `Problem`: 403 for a credential that reports for nobody, 503 if the broker does not acknowledge all of them.
        """
        tenant = reporter(principal)
        if tenant is None:
            judged = self._judge(values)
            keys = await self._keys_of_gateway(judged)
        else:
            values, judged = await self._of_tenant(values, tenant)
            keys = [str(tenant.subscription_id).encode()] * len(values)
        return await self._publish(values, judged, keys)

    def start(self) -> None:
        """Begin to connect to Kafka. Raises `ConfigurationError`."""
        self.publisher.start()

    async def close(self) -> None:
        """Let what was taken reach the broker."""
        await self.publisher.close()

    def _judge(self, values: Sequence[bytes]) -> list[Event | Refused]:
        earliest, latest = self.limits.window(self.clock.now())
        limits, judged = self.limits, list[Event | Refused]()
        for value in values:
            found = accept(value, (), limits, earliest, latest)
            judged.append(Refused(found.reason, found.detail, _id_in(value)) if isinstance(found, Rejected) else found)
        return judged

    async def _keys_of_gateway(self, judged: list[Event | Refused]) -> list[bytes | None]:
        """Return the record key of each event, its subscription; put a refusal in the place of events that name nobody, or two."""
        known, unknown = self._keys.get, dict[int, Name]()
        keys = list[bytes | None]()
        for index, event in enumerate(judged):
            name = None if isinstance(event, Refused) else _name_of(event)
            key = None if name is None else known(name)
            keys.append(key)
            if key is None and name is not None:
                unknown[index] = name
        found = await self._look_up(list(unknown.values())) if unknown else {}
        for index, name in unknown.items():
            owner = found[name]
            if isinstance(owner, Rejected):
                judged[index] = Refused(owner.reason, owner.detail, judged[index].id)
            elif isinstance(owner, Owner):
                keys[index] = self._keys[name] = str(owner.subscription_id).encode()
            else:  # nobody yet: it will be held. What it names keeps its events together
                keys[index] = next(part for part in name if part).encode()
        if len(self._keys) > CACHE_ENTRIES:
            self._keys.clear()
        return keys

    async def _look_up(self, names: Sequence[Name]) -> Mapping[Name, Attribution | None]:
        """Ask whose events these are. Without a database, what is well-formed passes: ingest will know."""
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS), self.pool.acquire() as connection:
                return await self._attributor.look_up(connection, names)
        except (*UNREACHABLE, asyncpg.InterfaceError) as error:
            log.warning("owners_unknown", error=repr(error))
            return {name: malformed(name) for name in names}

    async def _of_tenant(self, values: Sequence[bytes], tenant: Tenant) -> tuple[list[bytes], list[Event | Refused]]:
        """Return what is published in a tenant's name, and what it is judged to be."""
        claims: list[bytes | Refused | Claim] = []
        for value in values:
            try:
                claims.append(claim(value, tenant) or value)
            except NotYours as refusal:
                claims.append(Refused(NOT_YOURS, str(refusal), _id_in(value)))
        hashes = {claimed.key_hash for claimed in claims if isinstance(claimed, Claim) and claimed.key_hash}
        others = await self._of_others(hashes, tenant) if hashes else frozenset()
        signed_or_not = [_signed(claimed, tenant, others) for claimed in claims]
        published = [b"" if isinstance(value, Refused) else value for value in signed_or_not]
        judged = [
            value if isinstance(value, Refused) else found
            for value, found in zip(signed_or_not, self._judge(published), strict=True)
        ]
        return published, judged

    async def _of_others(self, hashes: set[str], tenant: Tenant) -> frozenset[str]:
        """Return which of these are hashes of other subscriptions' keys."""
        found = await self._look_up([(None, None, key_hash) for key_hash in hashes])
        if None in found.values():
            raise Problem(
                UNAVAILABLE, "the database does not answer, so that nobody knows whose data.api_key_hash is: try again"
            )
        owners = {name[2]: owner.subscription_id for name, owner in found.items() if isinstance(owner, Owner)}
        return frozenset(
            key_hash for key_hash in hashes if owners.get(key_hash, tenant.subscription_id) != tenant.subscription_id
        )

    async def _publish(
        self, values: Sequence[bytes], judged: Sequence[Event | Refused], keys: Sequence[bytes | None]
    ) -> Taken:
        ids, records, results = list[bytes](), list[tuple[bytes | None, bytes]](), list[Result]()
        known, seen = self._recent, set[bytes]()
        for index, event in enumerate(judged):
            if isinstance(event, Refused):
                results.append(Result(index, event.id, "rejected", event.reason, event.detail))
                continue
            identity = event_key(event.source, event.id)
            again = identity in seen or identity in known
            seen.add(identity)
            ids.append(identity)
            records.append((keys[index], values[index]))  # a duplicate as well: the pipeline, not a memory, decides
            results.append(Result(index, event.id, "duplicate" if again else "accepted"))
        if too_large := set(await self.publisher.publish(records)):
            _reject_too_large(results, values, too_large)
        known.remember(ids)
        return _counted(results)


def reporter(principal: Principal) -> Tenant | None:
    """Return for whom a credential reports: the subscription of a key; None for all, which gateways do. Raises `Problem` (403)."""
    if principal.reports_for_all:
        return None
    if principal.subscription_id is None or principal.key_id is None:
        raise Problem(
            FORBIDDEN, "usage is reported with an API key, of the subscription or of a gateway (role service)"
        )
    return Tenant(principal.subscription_id, principal.key_id)


class _Named(Struct):
    id: str | None = None


_named = msgspec.json.Decoder(_Named).decode


def _id_in(value: bytes) -> str | None:
    """Return the id that a refused record has, if it is readable, for who has to find it among his own."""
    try:
        return (_named(value).id or "")[:MAX_STRING] or None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _name_of(event: Event) -> Name | None:
    """Return whom an event names. A void may name nobody: ingest finds its original."""
    if isinstance(event, VoidEvent):
        return (event.subject, None, None) if event.subject else None
    return name_of(event)


def _signed(claimed: bytes | Refused | Claim, tenant: Tenant, others: frozenset[str]) -> bytes | Refused:
    if not isinstance(claimed, Claim):
        return claimed
    if claimed.key_hash in others:
        named = claimed.document.get("id")
        detail = "data.api_key_hash is of a key of another subscription"
        return Refused(NOT_YOURS, detail, named if isinstance(named, str) else None)
    return signed(claimed, tenant)


def _reject_too_large(results: Sequence[Result], values: Sequence[bytes], too_large: set[bytes]) -> None:
    for result in results:
        if result.status != "rejected" and (value := values[result.index]) in too_large:
            result.status, result.reason = "rejected", Reason.TOO_LARGE.value
            result.detail = f"the topic takes no record of {len(value):,} bytes: send less metadata"


def _counted(results: list[Result]) -> Taken:
    count = Counter([result.status for result in results])
    for status, number in count.items():
        metrics.EVENTS.labels(status).inc(number)
    if count["rejected"]:
        for result in results:
            if isinstance(result.reason, str):
                metrics.REFUSED_EVENTS.labels(result.reason).inc()
    return Taken(count["accepted"], count["duplicate"], count["rejected"], results)
