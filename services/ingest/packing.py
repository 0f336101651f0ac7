"""One pass over a batch of new events (pure): the bytes that COPY takes, and the sums of the announcement, side by side.

This is where an event costs most, so it is written for speed: no row, no UUID and no list is made for an event. Events of one
owner, minute, model, … share a `_Use`, which holds their columns as they are sent, and their sums. `rows.usage_row` and
`deltas.aggregate` say the same plainly, event by event; tests hold this to them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import msgspec

from services.ingest.deltas import MOST_RESERVATIONS, RATE_LIMITED, EncodedSums, Sums, merge
from shared.contracts import LATENCY_BUCKET_COUNT, LATENCY_BUCKETS_MS, ProviderDelta, UsageData, UsageDelta, UsageEvent
from shared.ids import uuid_of_bytes

if TYPE_CHECKING:
    from services.ingest.attribution import Owner
    from shared.slices import Record

COLUMNS = (
    "id", "created_at", "request_tokens", "response_tokens", "cached_tokens", "status_code", "latency_ms",
    "subscription_id", "api_key_id", "batch_id", "model_id", "tool_name", "provider", "power_level", "byok", "feature_type",
    "error_message", "library_id", "reservation_id", "tokens_returned",
    "session_id", "end_user", "app_id", "source", "request_id", "metadata",
)  # fmt: skip
"""The columns of usage_logs in the order in which they are sent: of the event, of its `_Use`, rare ones, texts."""
IDENTITY_COLUMNS = ("id", "created_at", "generation")

# COPY's binary format: a signature with two empty fields, for each row the number of its columns and for each column its length in
# bytes (-1: NULL) and its value, and an end.
_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_head = Struct("!hi16siqiqiqiqihQ").pack
_head_without_latency = Struct("!hi16siqiqiqiqihi").pack
_LATENCY = 4 << 32
_IDENTITY = slice(2, 34)
"""Where the id and the time are in a head, as columns: what usage_ids takes of an event."""
_identity_begin = Struct("!h").pack
_identity_row = Struct("!hi16siqih")
_generation = Struct("!ih").pack
_bigint = Struct("!iq").pack
_length = Struct("!i").pack
_jsonb = Struct("!iB").pack
_JSON = [_jsonb(length + 1, 1) for length in range(1024)]
"""What comes in front of JSON of so many bytes: their number and the version of jsonb."""
_encode = msgspec.json.encode

_SHORT = [f"\0\0\0{chr(length)}" for length in range(128)]
"""The length in front of a text, itself as a text: of short ones, the most common."""
_NO_TEXT = "\udcff" * 4
"""NULL as a text: with `surrogateescape`, each of these becomes one byte 255."""
_NOTHING_RARE = _NULL * 4

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_NEVER = datetime.min.replace(tzinfo=UTC)


class Candidate(NamedTuple):
    """An accepted event on its way into the log: the record it came in, its 16-byte id, the event, and who used it."""

    record: Record
    key: bytes
    event: UsageEvent
    owner: Owner


@dataclass(slots=True)
class Packed:
    """Events ready to be copied: the rows of usage_logs, and in the order of their ids those of usage_ids."""

    rows: bytes
    identities: bytes
    minutes: set[datetime]
    """Those in which the events lie."""
    sums: Callable[[], Sums | EncodedSums]
    """Returns what the events add up to, as `deltas.aggregate` does."""


def joined(one: Packed, other: Packed) -> Packed:
    """Return two parts of a batch as one."""
    begin, end = len(_BEGIN), len(_END)
    return Packed(
        one.rows[:-end] + other.rows[begin:],
        _identity_rows_sorted(one.identities[begin:-end] + other.identities[begin:-end]),
        one.minutes | other.minutes,
        lambda: sums_of((one, other)),
    )


def sums_of(packed: Sequence[Packed]) -> Sums | EncodedSums:
    """Return what packed events add up to."""
    if len(packed) == 1:  # nearly always
        return packed[0].sums()
    parts = [one.sums().decoded() for one in packed]
    return Sums(merge(delta for part in parts for delta in part.deltas), [p for part in parts for p in part.providers])


@dataclass(slots=True)
class _Seen:
    """What was seen of a provider within a minute."""

    provider: str
    minute: datetime
    histogram: list[int] = field(default_factory=lambda: [0] * LATENCY_BUCKET_COUNT)
    uses: list[_Use] = field(default_factory=list)
    failures: list[datetime] = field(default_factory=list)
    rate_limited: int = 0

    def delta(self) -> ProviderDelta:
        """Return it as it is announced."""
        succeeded = [use.last for use in self.uses if use.status_class == 2]
        last_success = max(succeeded, default=None)
        failures = self.failures
        return ProviderDelta(
            provider=self.provider,
            minute=self.minute,
            requests=sum(use.requests for use in self.uses),
            errors=len(failures),
            rate_limited=self.rate_limited,
            latency_sum_ms=sum(use.latency_sum for use in self.uses),
            latency_count=sum(self.histogram),
            latency_histogram=self.histogram,
            last_success_at=last_success,
            last_failure_at=max(failures, default=None),
            trailing_failures=len(failures) if last_success is None else sum(at > last_success for at in failures),
        )


class _Use:
    """Events that differ only in what is counted, and in their texts: the columns that they share, and their sums."""

    __slots__ = (
        "cached_tokens", "columns", "event", "first", "histogram", "last", "latency_sum", "minute", "owner", "request_tokens",
        "requests", "reservations", "response_tokens", "seen", "status_class", "tokens_returned",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 – for one event in four
        self,
        event: UsageEvent,
        owner: Owner,
        batch: bytes,
        minute: datetime,
        at: datetime,
        status_class: int,
        seen: _Seen,
    ) -> None:
        self.event, self.owner, self.minute, self.status_class, self.seen = event, owner, minute, status_class, seen
        data = event.data
        self.columns = (
            owner.columns
            + batch
            + _shared_columns(
                data.model, data.tool_name, data.provider, data.power_level or "balanced", data.byok, data.feature_type
            )
        )
        self.requests = self.request_tokens = self.response_tokens = self.cached_tokens = 0
        self.tokens_returned = self.latency_sum = 0
        self.first = self.last = at
        self.histogram = [0] * LATENCY_BUCKET_COUNT
        self.reservations: list[UUID] = []
        seen.uses.append(self)

    def delta(self) -> UsageDelta:
        """Return the sums as they are announced."""
        data, owner = self.event.data, self.owner
        return UsageDelta(
            subscription_id=owner.subscription_id,
            hour=self.minute.replace(minute=0),
            api_key_id=owner.api_key_id,
            model_id=data.model or "",
            tool_name=data.tool_name or "",
            provider=data.provider or "",
            feature_type=data.feature_type or "",
            power_level=data.power_level or "balanced",
            byok=data.byok,
            status_class=self.status_class,
            app_id=data.app_id or "",
            requests=self.requests,
            errors=0 if self.status_class == 2 else self.requests,
            request_tokens=self.request_tokens,
            response_tokens=self.response_tokens,
            cached_tokens=self.cached_tokens,
            tokens_returned=self.tokens_returned,
            latency_sum_ms=self.latency_sum,
            latency_count=sum(self.histogram),
            latency_histogram=self.histogram,
            first_event_at=self.first,
            last_event_at=self.last,
            reservations=self.reservations,
        )


def pack(  # noqa: PLR0912, PLR0915 – a call would cost what a step here does
    candidates: Iterable[tuple[object, bytes, UsageEvent, Owner]], batch_id: UUID, generation: int
) -> Packed:
    """Return events of one batch, ready to be copied. `generation` is the open one of identities. Looks at each candidate once.

    Raises `UnicodeEncodeError` for a text that is none (half of a surrogate pair) and `struct.error` for a number out of range:
    validation lets neither pass.
    """
    batch = b"\0\0\0\x10" + batch_id.bytes
    uses: dict[tuple[object, ...], _Use] = {}
    full: list[_Use] = []
    seen: dict[tuple[str | None, int], _Seen] = {}
    rows, identities = [_BEGIN], list[bytes]()
    head, bounds, short, json, encode = _head, LATENCY_BUCKETS_MS, _SHORT, _JSON, _encode
    minute = minute_end = _NEVER
    minute_us, minutes = 0, set[datetime]()
    ambiguous = False
    for _, key, event, owner in candidates:
        data, at = event.data, event.time
        if at.tzinfo is not UTC:
            at = at.astimezone(UTC)
        if not minute <= at < minute_end:  # neighbours mostly share their minute: truncate once for all of them
            minute = at.replace(second=0, microsecond=0)
            minute_end = minute + _MINUTE
            minute_us = (minute - _EPOCH) // _MICROSECOND
            minutes.add(minute)
        us = minute_us + at.second * 1_000_000 + at.microsecond
        status, provider = data.status_code, data.provider
        status_class = 2 if status < 400 else status // 100
        name = (
            owner.columns, minute_us, data.model, data.tool_name, provider, data.power_level or "balanced", data.byok,
            data.feature_type, data.app_id, status_class,
        )  # fmt: skip
        use = uses.get(name)
        if use is None:
            of_provider = seen.get((provider, minute_us))
            if of_provider is None:
                of_provider = seen[provider, minute_us] = _Seen(provider or "", minute)
            use = uses[name] = _Use(event, owner, batch, minute, at, status_class, of_provider)
            ambiguous = ambiguous or provider == "" or data.feature_type == "" or data.app_id == ""

        request, response, cached, latency = data.request_tokens, data.response_tokens, data.cached_tokens, data.latency_ms  # fmt: skip
        use.requests += 1
        use.request_tokens += request
        use.response_tokens += response
        if cached:
            use.cached_tokens += cached
        if at > use.last:
            use.last = at
        elif at < use.first:
            use.first = at
        if latency is None:
            first = _head_without_latency(26, 16, key, 8, us, 8, request, 8, response, 8, cached, 2, status, -1)
        else:
            use.latency_sum += latency
            bucket = bisect_left(bounds, latency)
            use.histogram[bucket] += 1
            use.seen.histogram[bucket] += 1
            first = head(26, 16, key, 8, us, 8, request, 8, response, 8, cached, 2, status, _LATENCY | latency)
        if status_class != 2:
            use.seen.failures.append(at)
            if status == RATE_LIMITED:
                use.seen.rate_limited += 1

        rare = _NOTHING_RARE
        reservation = data.reservation_id
        if (
            data.error_message is not None
            or reservation is not None
            or data.library_id is not None
            or data.tokens_returned is not None
        ):
            rare = _rare_columns(data)
            use.tokens_returned += data.tokens_returned or 0
            if reservation and _is_id(reservation):
                use.reservations.append(UUID(reservation))
                if len(use.reservations) >= MOST_RESERVATIONS:
                    full.append(uses.pop(name))

        session, user, app, source, request_id = data.session_id, data.end_user, data.app_id, event.source, event.id
        try:
            text = (
                f"{_NO_TEXT if session is None else short[len(session)] + session}"
                f"{_NO_TEXT if user is None else short[len(user)] + user}"
                f"{_NO_TEXT if app is None else short[len(app)] + app}"
                f"{short[len(source)]}{source}{short[len(request_id)]}{request_id}"
            )
            texts = text.encode("utf-8", "surrogateescape")
            if len(texts) != len(text):  # not ASCII: the lengths are of characters
                texts = _texts(session, user, app, source, request_id)
        except IndexError:
            texts = _texts(session, user, app, source, request_id)
        if data.metadata is None:
            rows += (first, use.columns, rare, texts, _NULL)
        else:
            metadata = encode(data.metadata)
            size = len(metadata)
            rows += (first, use.columns, rare, texts, json[size] if size < 1024 else _jsonb(size + 1, 1), metadata)
        identities.append(first[_IDENTITY])
    rows.append(_END)
    all_uses = [*uses.values(), *full]
    named = [one for (provider, _), one in seen.items() if provider]
    mixed = ambiguous or len(minutes) > 1
    return Packed(
        b"".join(rows),
        _packed_identities(identities, generation),
        minutes,
        lambda: _sums(all_uses, named, mixed=mixed),
    )


def _sums(uses: list[_Use], seen: list[_Seen], *, mixed: bool) -> Sums:
    """Return what is announced. `mixed` says that several uses may have one name there."""
    deltas = [use.delta() for use in uses]
    return Sums(merge(deltas) if mixed else deltas, [one.delta() for one in seen])


def _packed_identities(identities: list[bytes], generation: int) -> bytes:
    """Return rows of usage_ids in the order of ids: neighbours in the index come together, and no two workers wait in a circle."""
    identities.sort()
    begin, end = _identity_begin(len(IDENTITY_COLUMNS)), _generation(2, generation)
    return b"".join((_BEGIN, begin, (end + begin).join(identities), end, _END)) if identities else _BEGIN + _END


def _identity_rows_sorted(rows: bytes) -> bytes:
    """Return packed rows of usage_ids in the order of ids."""
    size = _identity_row.size
    return b"".join((_BEGIN, *sorted(rows[at : at + size] for at in range(0, len(rows), size)), _END))


def packed_identities(identities: bytes) -> list[tuple[UUID, datetime]]:
    """Return the ids and times in packed rows of usage_ids."""
    rows = _identity_row.iter_unpack(memoryview(identities)[len(_BEGIN) : -len(_END)])
    return [(uuid_of_bytes(key), _EPOCH + us * _MICROSECOND) for _, _, key, _, us, _, _ in rows]


def owner_columns(subscription_id: UUID, api_key_id: UUID | None) -> bytes:
    """Return the columns that say whose usage it is."""
    return b"\0\0\0\x10" + subscription_id.bytes + (_NULL if api_key_id is None else b"\0\0\0\x10" + api_key_id.bytes)


@lru_cache(maxsize=10_000)
def _shared_columns(  # noqa: PLR0917 – what the cache goes by
    model: str | None, tool: str | None, provider: str | None, power_level: str, byok: bool, feature: str | None
) -> bytes:
    """Return the columns that tell what was used: there are few of them, however many events."""
    named = _texts(model, tool, provider, power_level)
    return named + (b"\0\0\0\1\1" if byok else b"\0\0\0\1\0") + _texts(feature)


def _rare_columns(data: UsageData) -> bytes:
    returned = data.tokens_returned
    return _texts(data.error_message, data.library_id, data.reservation_id) + (
        _NULL if returned is None else _bigint(8, returned)
    )


def _texts(*texts: str | None) -> bytes:
    """Return columns of text of any length and script."""
    columns: list[bytes] = []
    for text in texts:
        if text is None:
            columns.append(_NULL)
        else:
            encoded = text.encode()
            columns += (_length(len(encoded)), encoded)
    return b"".join(columns)


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
