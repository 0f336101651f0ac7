"""Records to the HTTP API: POST /api/v1/events in batches."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, Final

from tallystick.errors import ApiAway
from tallystick.transports import Rejection, Undelivered, from_record
from tallystick.web import Answer, Web, explanation, retry_after

PATH: Final = "/api/v1/events"
MOST_EVENTS: Final = 1000
_BATCH: Final = {"content-type": "application/cloudevents-batch+json"}
_COMPRESS_FROM_BYTES: Final = 2048
_TOO_LARGE: Final = 413
_NOT_YOURS: Final = "not_yours"
_OF_THE_BATCH: Final = frozenset({400, 422})
_ADVICE: Final = {
    401: "the API key is not known here, or was revoked: set another one",
    403: "this API key may not report usage: give its owner the role `service`, or use a key of the subscription",
    404: "there is no API at this address: check it, it has no /api/v1 at its end",
}


class HttpTransport:
    """Delivers to the HTTP API. What the API rejects, one event, is returned; what concerns all of them is tried again, and explained."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def send(self, records: Sequence[bytes]) -> Sequence[Rejection]:
        """Return the events that the API rejected. Raises `Undelivered`: the API is away or busy, or the credential is not accepted."""
        rejected: list[Rejection] = []
        for first in range(0, len(records), MOST_EVENTS):
            rejected += self._post(records[first : first + MOST_EVENTS])
        return rejected

    def close(self) -> None:
        """Close the connections."""
        self._web.close()

    def _post(self, records: Sequence[bytes]) -> list[Rejection]:
        body = b"[" + b",".join(from_record(record)[1] for record in records) + b"]"
        headers = _BATCH
        if len(body) >= _COMPRESS_FROM_BYTES:
            compress = zlib.compressobj(level=1, wbits=31)
            body, headers = compress.compress(body) + compress.flush(), {**_BATCH, "content-encoding": "gzip"}
        try:
            answer = self._web.request("POST", PATH, body, headers)
        except ApiAway as error:
            raise Undelivered(str(error)) from error
        results = _results(answer, len(records))
        if results is not None:
            return _rejections(records, results)
        if answer.status == _TOO_LARGE or answer.status in _OF_THE_BATCH:
            return self._in_halves(records, answer)
        advice = _ADVICE.get(answer.status)
        said = f"HTTP {answer.status}: {explanation(answer)}"
        raise Undelivered(f"{said}; {advice}" if advice else said, retry_after(answer))

    def _in_halves(self, records: Sequence[bytes], answer: Answer) -> list[Rejection]:
        """Send what was refused as a whole in two parts, down to the one event that is to blame."""
        if len(records) == 1:
            reason = "too_large" if answer.status == _TOO_LARGE else "refused"
            return [Rejection(records[0], reason, f"HTTP {answer.status}: {explanation(answer)}")]
        half = len(records) // 2
        return self._post(records[:half]) + self._post(records[half:])


def _results(answer: Answer, events: int) -> list[Any] | None:
    """Return the result of each event, if the answer has them: a refusal of the whole has none."""
    content = answer.content
    results = content.get("results") if isinstance(content, dict) else None
    if isinstance(results, list) and len(results) == events and all(isinstance(result, dict) for result in results):
        return results
    if 200 <= answer.status < 300:
        raise Undelivered(
            f"the answer {json.dumps(content)[:200]} does not tell what became of each event; is this Tallystick's API?"
        )
    return None


def _rejections(records: Sequence[bytes], results: Sequence[Any]) -> list[Rejection]:
    """Return what is rejected for good. If the key may report none of them, it is the wrong key, and no event is to blame."""
    if all(result.get("reason") == _NOT_YOURS for result in results):
        raise Undelivered(f"{results[0].get('detail') or _NOT_YOURS}; {_ADVICE[403]}")
    return [
        Rejection(record, str(result.get("reason") or "rejected"), str(result.get("detail") or ""))
        for record, result in zip(records, results, strict=True)
        if result.get("status") not in ("accepted", "duplicate")
    ]
