"""What happens between a request and its event: each request is recorded once, before its answer is complete. Knows LiteLLM's data, not LiteLLM."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tallystick.client import Client
from tallystick.errors import SpoolFull
from tallystick.events import Usage, usage_event
from tallystick.litellm import mapping
from tallystick.litellm.settings import Settings
from tallystick.writer import Writer

_log: Final = logging.getLogger("tallystick.litellm")

NONCE: Final = "tallystick_request"
"""Key of a request's metadata under which the plug-in finds it again."""
MOST_CALLS: Final = 32_768
"""Requests that are remembered, more than can be under way at once."""
MODEL_CALLS: Final = frozenset({
    "completion", "text_completion", "embedding", "image_generation", "responses", "anthropic_messages", "moderation", "rerank",
    "transcription", "speech",
})  # fmt: skip
"""Calls that LiteLLM logs when their model has answered: their answers wait for that, and what is reserved for them is settled."""


@dataclass(slots=True, eq=False)
class Call:
    """One request through the proxy."""

    nonce: str
    call_id: str
    call_type: str
    model: str
    began_at: datetime
    subscription: str | None = None
    api_key_hash: str | None = None
    reservation: str | None = None
    kept: bool = False  # its event is in the spool, or there is none
    used: bool = False  # there is an event
    refused: bool = False  # by us: it used nothing
    failed: bool = False  # for good: no other try follows
    failure: Mapping[str, Any] | None = None  # of a try that may not be the last
    waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = field(default_factory=list)

    @property
    def uses_a_model(self) -> bool:
        """Whether this is a call to a model, and not one about a batch, a file or a list."""
        return mapping.call_kind(self.call_type) in MODEL_CALLS


class Recorder:
    """Turns LiteLLM's callbacks into events. `recorded` counts them, `late` the answers that did not wait for theirs, `lost` what was not kept."""

    def __init__(self, settings: Settings, client: Client, providers: frozenset[str] = frozenset()) -> None:
        self.settings = settings
        self.client = client
        self.recorded = 0
        self.late = 0
        self.lost = 0
        self._providers = providers
        self._writer = Writer()
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, bool], None] = OrderedDict()

    def begin(
        self, data: dict[str, Any], call_type: str, *, subscription: str | None = None, api_key_hash: str | None = None
    ) -> Call:
        """Remember a request that the proxy has authenticated, and mark its metadata. It is counted to the subscription, else to the key's."""
        call = Call(
            nonce=uuid.uuid4().hex,
            call_id=str(data.get("litellm_call_id") or ""),
            call_type=call_type,
            model=str(data.get("model") or ""),
            began_at=datetime.now(UTC),
            subscription=subscription,
            api_key_hash=api_key_hash,
        )
        name = "litellm_metadata" if isinstance(data.get("litellm_metadata"), dict) else "metadata"
        metadata = data.get(name)
        if isinstance(metadata, dict):
            metadata[NONCE] = call.nonce  # in place: LiteLLM has taken hold of it already
        else:
            data[name] = {NONCE: call.nonce}
        with self._lock:
            self._calls[call.nonce] = call
            evicted = self._calls.popitem(last=False)[1] if len(self._calls) > MOST_CALLS else None
        if evicted is not None and evicted.failure is not None:
            self._record(evicted.failure, evicted, failed=True)
        return call

    def call_of(self, data: Mapping[str, Any]) -> Call | None:
        """Return the call that a request's data, or a callback's `litellm_params`, belongs to."""
        for name in ("metadata", "litellm_metadata"):
            metadata = data.get(name)
            if isinstance(metadata, Mapping) and (call := self._calls.get(str(metadata.get(NONCE)))):
                return call
        return None

    def success(self, kwargs: Mapping[str, Any]) -> None:
        """Record a call that LiteLLM logs as a success."""
        call = self.call_of(kwargs.get("litellm_params") or {})
        payload = _payload(kwargs)
        if call is not None:
            call.failure = None  # another try succeeded
        if payload is not None:
            self._record(payload, call, claimed=self._claimed(kwargs, payload, call))

    def failure(self, kwargs: Mapping[str, Any]) -> None:
        """Remember a call that LiteLLM logs as a failure. It is recorded when the request has failed for good: another try may follow."""
        call = self.call_of(kwargs.get("litellm_params") or {})
        payload = _payload(kwargs)
        if payload is None or (call is not None and call.refused):
            return
        if call is None or call.failed:
            self._record(payload, call, claimed=self._claimed(kwargs, payload, call), failed=True)
        else:
            call.failure = call.failure or payload

    async def answered(self, data: Mapping[str, Any], response: Any = None) -> None:
        """Return when the event of a request is in the spool, so that an answer which arrived is an answer that is billed."""
        call = self.call_of(data)
        if call is None or self.settings.wait_seconds <= 0 or not call.uses_a_model:
            return
        logging_object = data.get("litellm_logging_obj")
        deferred = response is not None and bool(getattr(logging_object, "defer_async_logging", False))
        if not deferred and await self._until_kept(call):
            return
        if response is None:
            self.late += 1
            _log.warning("litellm.late the answer of call %s is complete before LiteLLM has logged it", call.call_id)
            return
        details = getattr(logging_object, "model_call_details", None) or {}
        self._from_response(call, response, details)  # LiteLLM logs it after its answer, or not at all
        if not await self._until_kept(call):
            self.late += 1

    async def failed(self, data: Mapping[str, Any]) -> Call | None:
        """Record a request that has failed for good, as its client is about to be told; return it."""
        call = self.call_of(data)
        if call is None or call.refused:
            return call
        call.failed = True
        if call.failure is not None:
            self._record(call.failure, call, failed=True)
            await self._until_kept(call)
        return call

    def close(self) -> None:
        """Write what is under way, deliver what can be delivered in a few seconds, keep the rest for the next process."""
        self._writer.stop()
        self.client.close(3.0)

    def _from_response(self, call: Call, response: Any, details: Mapping[str, Any]) -> None:
        payload = mapping.of_response(
            response,
            call_id=call.call_id,
            call_type=call.call_type,
            started_at=call.began_at,
            ended_at=datetime.now(UTC),
        )
        model = {
            "model": details.get("model") or call.model,
            "custom_llm_provider": details.get("custom_llm_provider"),
            "model_group": call.model,
        }
        self._record(payload | model, call)

    def _claimed(self, kwargs: Mapping[str, Any], payload: Mapping[str, Any], call: Call | None) -> str | None:
        """Return the subscription that a request names itself. It is believed only where no proxy authenticates: a client writes it."""
        if call is not None or (payload.get("metadata") or {}).get("user_api_key_hash"):
            return None
        metadata = (kwargs.get("litellm_params") or {}).get("metadata") or {}
        return metadata.get("tallystick_subscription") or self.settings.subscription or None

    def _record(
        self, payload: Mapping[str, Any], call: Call | None, *, claimed: str | None = None, failed: bool = False
    ) -> None:
        """Have the event written, once for each call, whoever asks for it how often."""
        key, nonce = mapping.key(payload), call.nonce if call else ""
        with self._lock:
            if (nonce, key, failed) in self._seen:
                return
            self._seen[nonce, key, failed] = None
            if len(self._seen) > MOST_CALLS:
                self._seen.popitem(last=False)

        def done(error: Exception | None) -> None:
            if error is not None:
                self.lost += 1
                _log.error("litellm.lost the usage of call %s is not kept: %s", key, error)
            self._kept(call, key)

        try:
            self._writer.submit(lambda: self._write(payload, key, call, claimed, failed=failed), done)
        except SpoolFull as error:
            done(error)

    def _write(
        self, payload: Mapping[str, Any], key: str, call: Call | None, claimed: str | None, *, failed: bool
    ) -> None:
        """Write the event of a call, if it used a model or tool. In the writer's thread: the event loop has better things to do."""
        settings = self.settings
        found = mapping.facts(
            payload, keep=settings.metadata, providers=self._providers, free_cache_hits=settings.cache_hits == "free"
        )
        if found is None:
            return
        subscription, key_hash = (call.subscription, call.api_key_hash) if call else (claimed, found.api_key_hash)
        reservation = call.reservation if call and key == call.call_id else None
        usage: Usage = {
            **found.usage,
            "api_key_hash": None if subscription else key_hash,
            "reservation_id": reservation,
        }
        event_id = mapping.event_id(call.nonce if call else "", key, failed=failed)
        event = usage_event(settings.source, subscription=subscription, event_id=event_id, time=found.ended_at, **usage)
        self.client.send(event)
        self.recorded += 1
        if call is not None:
            call.used = True

    def _kept(self, call: Call | None, key: str) -> None:
        """Let the answer go that waits for this event. A call that a request makes beside its own has another id."""
        if call is None or (key != call.call_id and call.call_id):
            return
        call.kept = True
        for loop, future in call.waiting:
            try:
                loop.call_soon_threadsafe(_settle, future)
            except RuntimeError:
                continue  # the loop is closed

    async def _until_kept(self, call: Call) -> bool:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        call.waiting.append((loop, future))  # before we look: the writer's thread looks in the other order
        if call.kept:
            return True
        try:
            await asyncio.wait_for(future, self.settings.wait_seconds)
        except TimeoutError:
            return False
        return True


def _payload(kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a copy of what LiteLLM logs, as callbacks after this one may change theirs."""
    payload = kwargs.get("standard_logging_object")
    if isinstance(payload, Mapping):
        return dict(payload)
    _log.error("litellm.no_payload call %s was logged without a standard_logging_object", kwargs.get("litellm_call_id"))
    return None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
