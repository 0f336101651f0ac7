"""Asks the HTTP API whether a request may go, and for the room that it needs, before it is served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from tallystick.entitlements import Entitlements
from tallystick.errors import ApiAway, ApiError, LimitExceeded, ProducerError
from tallystick.litellm.recorder import Call
from tallystick.litellm.settings import Settings
from tallystick.spool import Spool

_log: Final = logging.getLogger("tallystick.litellm")

_CHARACTERS_PER_TOKEN: Final = 4
_ASKING_THREADS: Final = 16
_NEARLY_FULL: Final = 0.01
_STATUS: Final = {
    **dict.fromkeys(("credits_exhausted", "payment_overdue"), 402),
    **dict.fromkeys(
        ("quota_requests", "quota_tokens", "concurrent_requests", "key_requests_per_day", "rate_limited"), 429
    ),
}
_NOT_OURS: Final = frozenset({400, 401, 403, 405, 422})
"""Refusals that tell of the gateway's own key or settings, and not of who asks."""


class Refused(ProducerError):
    """This request is not served: `status` is the HTTP status, the text is for whoever asked."""

    def __init__(self, status: int, detail: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.reasons = reasons


class Gate:
    """Lets requests pass or refuses them, as the settings say. `asked`, `refused` and `away` count."""

    def __init__(self, settings: Settings, entitlements: Entitlements | None, spool: Spool) -> None:
        self.asked = 0
        self.refused = 0
        self.away = 0
        self._settings = settings
        self._entitlements = entitlements
        self._spool = spool
        self._asking = ThreadPoolExecutor(_ASKING_THREADS, thread_name_prefix="tallystick-asking")

    async def admit(self, call: Call, data: Mapping[str, Any], model: str | None = None) -> None:
        """Return if the request may be served; `call` has its reservation then. `model` is the one in the price list. Raises `Refused`."""
        try:
            if self._settings.when_full == "refuse" and self._spool.room < _NEARLY_FULL:
                raise Refused(503, "usage cannot be recorded at present, and is not served unrecorded: try again later")
            if (
                self._entitlements is not None
                and self._settings.enforce != "off"
                and (call.subscription or call.api_key_hash)
            ):
                await self._ask(call, data, self._entitlements, model)
        except Refused:
            self.refused += 1
            call.refused = True
            raise

    async def release(self, call: Call) -> None:
        """Give back what a request holds that ended without usage."""
        if call.reservation is not None and self._entitlements is not None:
            with suppress(ApiAway, ApiError):  # it comes back when it expires
                await self._in_thread(lambda: self._cancel(call))

    def _cancel(self, call: Call) -> None:
        if self._entitlements is not None and call.reservation is not None:
            self._entitlements.cancel(call.reservation)

    async def _ask(self, call: Call, data: Mapping[str, Any], entitlements: Entitlements, model: str | None) -> None:
        self.asked += 1
        try:
            if self._settings.enforce == "entitlements" or not call.uses_a_model:
                found = await self._in_thread(
                    lambda: entitlements.check(subscription=call.subscription, api_key_hash=call.api_key_hash)
                )
                if not found.allowed:
                    raise _refusal(found.reasons, f"this subscription is {found.status}")
            else:
                hold = await self._in_thread(
                    lambda: entitlements.reserve(
                        subscription=call.subscription,
                        api_key_hash=call.api_key_hash,
                        tokens=estimated_tokens(data, self._settings.estimated_tokens),
                        model=model or call.model or None,
                        idempotency_key=call.nonce,
                    )
                )
                call.reservation = hold.id
        except LimitExceeded as error:
            raise _refusal(error.reasons, str(error)) from error
        except (ApiAway, ApiError) as error:
            self._without_answer(error)

    def _without_answer(self, error: ApiAway | ApiError) -> None:
        """Decide without the API: it is away, or does not accept the gateway's own key or question."""
        if isinstance(error, ApiError) and error.status not in _NOT_OURS:
            status = error.status if error.status in (402, 404, 429) else 403
            raise Refused(
                403 if status == 404 else status, f"no subscription may be charged for this request: {error}"
            ) from error
        self.away += 1
        _log.error(
            "litellm.entitlements_away %s; requests are %s",
            error,
            "served" if self._settings.when_away == "serve" else "refused",
        )
        if self._settings.when_away == "refuse":
            raise Refused(
                503, "whether this request may be served cannot be found out at present: try again later"
            ) from error

    async def _in_thread(self, ask: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._asking, ask)


def estimated_tokens(data: Mapping[str, Any], answer: int) -> int:
    """Return how many tokens a request may use: those of its prompt, by its length, and as many of each answer as it allows, else `answer`."""
    prompt = (
        sum(_characters(data.get(name)) for name in ("messages", "input", "prompt", "system", "tools"))
        // _CHARACTERS_PER_TOKEN
    )
    limit = next(
        (
            data[name]
            for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")
            if isinstance(data.get(name), int)
        ),
        answer,
    )
    choices = data.get("n")
    return max(1, prompt + max(0, limit) * (choices if isinstance(choices, int) and 0 < choices <= 128 else 1))


def _characters(value: Any) -> int:
    """Return the length of all texts in a prompt; what is no text, such as a picture, does not count."""
    if isinstance(value, str):
        return 0 if value.startswith("data:") else len(value)
    if isinstance(value, Mapping):
        return sum(_characters(each) for each in value.values())
    return sum(_characters(each) for each in value) if isinstance(value, list | tuple) else 0


def _refusal(reasons: tuple[str, ...], detail: str) -> Refused:
    status = next((_STATUS[reason] for reason in reasons if reason in _STATUS), 403)
    because = f": {', '.join(reasons)}" if reasons and not all(reason in detail for reason in reasons) else ""
    return Refused(status, detail + because, reasons)
