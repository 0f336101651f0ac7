"""The callback that LiteLLM loads. The only module that knows litellm; what it does is in recorder.py and gate.py."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from tallystick.client import Client
from tallystick.entitlements import Entitlements
from tallystick.errors import ProducerError
from tallystick.litellm.gate import Gate, Refused
from tallystick.litellm.recorder import Call, Recorder
from tallystick.litellm.settings import Settings
from tallystick.spool import Limits
from tallystick.transports.kafka import TOPIC, config_from_environment
from tallystick.web import Web

try:
    import litellm
    from fastapi import HTTPException
    from litellm.integrations.custom_logger import CustomLogger
except ImportError as missing:
    raise ProducerError(
        f"this plug-in runs inside LiteLLM, which is not installed here ({missing}): pip install 'litellm[proxy]'"
    ) from missing

_log: Final = logging.getLogger("tallystick.litellm")
MASTER_KEY: Final = "litellm_proxy_master_key"
"""What LiteLLM has in place of a hash for the master key."""
SUBSCRIPTION: Final = "tallystick_subscription"
"""Key of a key's or team's metadata, which only administrators set, with the subscription that it is counted to."""


class TallystickLogger(CustomLogger):  # type: ignore[misc]  # litellm is not installed where types are checked
    """Reports each request's usage, and asks before it is served if the settings say so. Opens its spool when it is made, in each process anew."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self._pid = 0
        self._open()
        atexit.register(self._close)

    @property
    def recorder(self) -> Recorder:
        """What records; its counters are for whoever wants to see them."""
        self._open()
        return self._recorder

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Remember the request, and ask whether it may be served."""
        subscription, key_hash = self._who(user_api_key_dict)
        call = self.recorder.begin(data, call_type, subscription=subscription, api_key_hash=key_hash)
        try:
            await self._gate.admit(call, data, _deployed_model(call.model))
        except Refused as refused:
            detail = {"error": str(refused), "reasons": list(refused.reasons)}
            raise HTTPException(status_code=refused.status, detail=detail) from refused
        return data

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Record a success."""
        self.recorder.success(kwargs)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Record a failure, unless another try follows."""
        self.recorder.failure(kwargs)

    def log_success_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Record a success of the synchronous library."""
        self.recorder.success(kwargs)

    def log_failure_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Record a failure of the synchronous library."""
        self.recorder.failure(kwargs)

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> None:
        """Let the answer go when its event is in the spool."""
        await self.recorder.answered(data, response)

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: Any,
        response: Any,
        request_data: dict[str, Any],
    ) -> AsyncIterator[Any]:
        """Pass a stream on, and let its end go when its event is in the spool."""
        async for chunk in response:
            yield chunk
        await self.recorder.answered(request_data)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Record a request that has failed for good; give back what it holds if it used nothing."""
        call: Call | None = await self.recorder.failed(request_data)
        if call is not None and not call.used:
            await self._gate.release(call)

    def _open(self) -> None:
        """Make what this process needs; after a fork, anew."""
        if self._pid == os.getpid():
            return
        web = (
            Web(self.settings.url, self.settings.secret, timeout_seconds=self.settings.ask_seconds)
            if self.settings.url
            else None
        )
        client = _client(self.settings)
        self._recorder = Recorder(self.settings, client, _providers())
        self._gate = Gate(self.settings, Entitlements(web) if web else None, client.spool)
        self._pid = os.getpid()
        _log.warning(
            "litellm.started usage goes to %s, by way of %s",
            self.settings.kafka_bootstrap_servers or self.settings.url,
            client.spool.directory,
        )

    def _close(self) -> None:
        if self._pid == os.getpid():
            self._recorder.close()

    def _who(self, auth: Any) -> tuple[str | None, str | None]:
        """Return the subscription that a key or its team is set to, else the hash of the key."""
        for metadata in (getattr(auth, "metadata", None), getattr(auth, "team_metadata", None)):
            if isinstance(metadata, Mapping) and (subscription := metadata.get(SUBSCRIPTION)):
                return str(subscription), None
        key_hash = getattr(auth, "api_key", None)
        if self.settings.subscription and key_hash in (None, MASTER_KEY):
            return self.settings.subscription, None
        return None, key_hash


def _client(settings: Settings) -> Client:
    limits = Limits(total_bytes=settings.spool_bytes)
    if settings.kafka_bootstrap_servers:
        return Client.over_kafka(
            settings.kafka_bootstrap_servers,
            source=settings.source,
            spool=settings.spool,
            topic=settings.kafka_topic_prefix + TOPIC,
            config=config_from_environment(),
            limits=limits,
        )
    return Client.over_http(settings.url, settings.secret, source=settings.source, spool=settings.spool, limits=limits)


def _deployed_model(name: str) -> str | None:
    """Return the model behind the name that clients use, as events will have it: that of its first deployment. None if it is not known."""
    router = getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None)
    try:
        deployments = router.get_model_list(model_name=name) if router is not None else None
        model = str(deployments[0]["litellm_params"]["model"]) if deployments else None
    except (LookupError, TypeError, ValueError):
        return None
    return model.partition("/")[2] or model if model else None


def _providers() -> frozenset[str]:
    """Return the names that LiteLLM puts before a model."""
    return frozenset(str(getattr(provider, "value", provider)) for provider in getattr(litellm, "provider_list", ()))
