"""What the LiteLLM plug-in costs a request: time on the event loop in its callbacks, and until its event is in the spool.

    python -m benchmarks.litellm_callback [--calls 20000] [--json FILE]

The callbacks run as LiteLLM runs them, on an event loop, with payloads of its shape; the spool is a real one, with fsync, in a temporary
directory. Nothing is delivered meanwhile, as in an outage. LiteLLM itself is not needed. `own` is processor time of the event loop's thread, which
does not depend on what else the machine does; the others are time by the clock, for which the machine must be idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tallystick.client import Client
from tallystick.litellm.recorder import Recorder
from tallystick.litellm.settings import Settings
from tallystick.transports import Rejection, Undelivered

PAYLOAD: Final[dict[str, Any]] = {
    "id": "chatcmpl-6b6c3173-a138-4537-9800-36ff08d3dcca",
    "call_type": "acompletion",
    "status": "success",
    "custom_llm_provider": "openai",
    "model": "openai/gpt-4o-mini",
    "model_group": "chat",
    "prompt_tokens": 812,
    "completion_tokens": 164,
    "total_tokens": 976,
    "stream": True,
    "end_user": "u-1",
    "messages": [{"role": "user", "content": "x" * 4000}],
    "metadata": {
        "user_api_key_hash": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "user_api_key_alias": "crm",
        "user_api_key_team_id": "team-1",
        "usage_object": {"prompt_tokens_details": {"cached_tokens": 512}},
    },
    "hidden_params": {},
    "error_information": {},
}


class Outage:
    """A transport whose other end is away."""

    def send(self, records: Sequence[bytes]) -> Sequence[Rejection]:
        raise Undelivered(f"{len(records)} records stay where they are")

    def close(self) -> None:
        return


async def measured(recorder: Recorder, calls: int) -> dict[str, list[float]]:
    """Make calls one after the other; return of each step the microseconds that each took."""
    found: dict[str, list[float]] = {
        "pre-call hook": [],
        "success callback": [],
        "success callback, own": [],
        "until in the spool": [],
    }
    for number in range(calls):
        call_id = f"call-{number}"
        data: dict[str, Any] = {"model": "chat", "litellm_call_id": call_id, "metadata": {}}
        began = time.perf_counter_ns()
        call = recorder.begin(data, "acompletion", subscription="019a2f6e-0c5b-7d10-9f5e-1b8c7c3a2d41")
        let_in = time.perf_counter_ns()
        now = time.time()
        payload = PAYLOAD | {"litellm_call_id": call_id, "startTime": now - 1, "endTime": now}
        kwargs = {"standard_logging_object": payload, "litellm_params": {"metadata": data["metadata"]}}
        own, called = time.thread_time_ns(), time.perf_counter_ns()
        recorder.success(kwargs)
        returned, own = time.perf_counter_ns(), time.thread_time_ns() - own
        await recorder.answered(data)
        kept = time.perf_counter_ns()
        assert call.kept
        for name, nanoseconds in zip(found, (let_in - began, returned - called, own, kept - called), strict=True):
            found[name].append(nanoseconds / 1000)
    return found


def quantile(values: list[float], share: float) -> float:
    """Return the value that `share` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as spool:
        recorder = Recorder(Settings(url="http://unused"), Client(Outage(), source="/gateways/litellm", spool=spool))
        asyncio.run(measured(recorder, 500))  # warm up
        found = asyncio.run(measured(recorder, options.calls))
        assert (recorder.recorded, recorder.lost, recorder.late) == (options.calls + 500, 0, 0)
        recorder.client.delivery.stop()
        recorder.client.spool.close()
    print(f"{options.calls} calls, {os.cpu_count()} cores, Python {platform.python_version()}; microseconds")
    result = {}
    for name, values in found.items():
        result[name] = {f"p{share * 100:g}": round(quantile(values, share), 1) for share in (0.5, 0.99, 0.999)}
        print(f"  {name:<22}" + "".join(f"{label:>8} {value:>8}" for label, value in result[name].items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
