"""Each request through a LiteLLM proxy is recorded once, and before its answer is complete; who may not be served is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from tallystick.client import Client
from tallystick.entitlements import Entitlements
from tallystick.litellm.gate import Gate, Refused, estimated_tokens
from tallystick.litellm.recorder import Call, Recorder
from tallystick.litellm.settings import Settings
from tallystick.spool import Limits
from tallystick.web import Web
from tests.unit.tallystick.payloads import CALL_ID, KEY_HASH, failure, kwargs, payload
from tests.usage_api import Request, Said, UsageApi, usage_api

SUBSCRIPTION: Final = "019a2f6e-0c5b-7d10-9f5e-1b8c7c3a2d41"
MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def api() -> Iterator[UsageApi]:
    with usage_api() as running:
        yield running


@pytest.fixture
def make_recorder(api: UsageApi, tmp_path: Path) -> Iterator[MakeRecorder]:
    made: list[Recorder] = []

    def make(limits: Limits | None = None, **settings: Any) -> Recorder:
        client = Client.over_http(api.url, "tsk_test", source="/gateways/litellm", spool=tmp_path, limits=limits)
        made.append(Recorder(Settings(url=api.url, **settings), client, frozenset({"openai"})))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()


def begin(recorder: Recorder, **who: str) -> tuple[Call, dict[str, Any]]:
    """Let a request in, as the proxy does; return it with its data."""
    data: dict[str, Any] = {"model": "chat", "litellm_call_id": CALL_ID, "metadata": {}}
    return recorder.begin(data, "acompletion", **who), data


def arrived(recorder: Recorder, api: UsageApi) -> list[dict[str, Any]]:
    recorder.close()
    return list(api.events.values())


async def test_an_answer_waits_for_its_event(make_recorder: MakeRecorder, api: UsageApi) -> None:
    recorder = make_recorder()
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    answering = asyncio.create_task(recorder.answered(data, response={}))
    await asyncio.sleep(0)
    assert not answering.done()

    recorder.success(kwargs(payload(), call.nonce))
    await answering

    assert recorder.client.spool.appended == 1, "it is on disk before the answer goes"
    assert (recorder.late, recorder.lost) == (0, 0)
    (event,) = arrived(recorder, api)
    assert event["subject"] == SUBSCRIPTION
    assert "api_key_hash" not in event["data"]


async def test_two_callbacks_about_one_call_are_one_event(make_recorder: MakeRecorder, api: UsageApi) -> None:
    recorder = make_recorder()
    call, _ = begin(recorder, subscription=SUBSCRIPTION)
    for _ in range(3):
        recorder.success(kwargs(payload(), call.nonce))
    assert len(arrived(recorder, api)) == 1


async def test_requests_that_a_client_names_alike_are_as_many_events(
    make_recorder: MakeRecorder, api: UsageApi
) -> None:
    recorder = make_recorder()
    for _ in range(3):
        call, _ = begin(recorder, subscription=SUBSCRIPTION)
        recorder.success(kwargs(payload(), call.nonce))
    assert len(arrived(recorder, api)) == 3


async def test_a_call_beside_the_request_is_an_event_of_its_own(make_recorder: MakeRecorder, api: UsageApi) -> None:
    recorder = make_recorder()
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    call.reservation = "r-1"
    recorder.success(kwargs(payload(litellm_call_id="of a guardrail"), call.nonce))
    recorder.success(kwargs(payload(), call.nonce))
    await recorder.answered(data, response={})
    assert [event["data"].get("reservation_id") for event in arrived(recorder, api)] == [None, "r-1"]


async def test_only_the_last_try_of_a_request_counts(make_recorder: MakeRecorder, api: UsageApi) -> None:
    recorder = make_recorder()
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    recorder.failure(kwargs(failure(), call.nonce))
    recorder.success(kwargs(payload(), call.nonce))
    await recorder.answered(data, response={})
    assert [event["data"]["status_code"] for event in arrived(recorder, api)] == [200]


@pytest.mark.parametrize("told_first", [True, False])
async def test_a_request_that_failed_for_good_is_one_failure(
    make_recorder: MakeRecorder, api: UsageApi, told_first: bool
) -> None:
    recorder = make_recorder()
    call, data = begin(recorder, api_key_hash=KEY_HASH)
    if told_first:
        recorder.failure(kwargs(failure(), call.nonce))
    assert await recorder.failed(data) is call
    recorder.failure(kwargs(failure(), call.nonce))
    (event,) = arrived(recorder, api)
    assert (event["data"]["status_code"], event["data"]["api_key_hash"]) == (429, KEY_HASH)


async def test_who_is_counted_is_said_by_the_proxy_and_not_by_the_client(
    make_recorder: MakeRecorder, api: UsageApi
) -> None:
    recorder = make_recorder(subscription="of the master key")
    recorder.success(kwargs(payload(), tallystick_subscription="claimed"))
    recorder.success(
        kwargs(payload(litellm_call_id="library", metadata={"user_api_key_hash": None}), tallystick_subscription="own")
    )
    recorder.success(kwargs(payload(litellm_call_id="nobody", metadata={"user_api_key_hash": None})))
    who = [(event.get("subject"), event["data"].get("api_key_hash")) for event in arrived(recorder, api)]
    assert who == [(None, KEY_HASH), ("own", None), ("of the master key", None)]


async def test_an_answer_that_litellm_does_not_log_is_recorded_all_the_same(
    make_recorder: MakeRecorder, api: UsageApi
) -> None:
    recorder = make_recorder(wait_seconds=0.05)
    _, data = begin(recorder, subscription=SUBSCRIPTION)
    await recorder.answered(data, response={"usage": {"input_tokens": 20, "output_tokens": 5}})
    recorder.success(kwargs(payload(), data["metadata"]["tallystick_request"]))  # later, after all
    (event,) = arrived(recorder, api)
    assert (event["data"]["model"], event["data"]["request_tokens"], event["data"]["response_tokens"]) == (
        "chat",
        20,
        5,
    )


async def test_an_answer_that_is_logged_after_it_is_sent_is_recorded_before(
    make_recorder: MakeRecorder, api: UsageApi
) -> None:
    recorder = make_recorder(wait_seconds=60)
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    details = {"model": "openai/gpt-4o-mini", "custom_llm_provider": "openai"}
    data["litellm_logging_obj"] = SimpleNamespace(
        defer_async_logging=True, model_call_details=details
    )  # as with guardrails
    await recorder.answered(data, response={"usage": {"prompt_tokens": 812, "completion_tokens": 164}})
    recorder.success(kwargs(payload(), call.nonce))
    (event,) = arrived(recorder, api)
    assert (event["data"]["provider"], event["data"]["model"], event["data"]["request_tokens"]) == (
        "openai",
        "gpt-4o-mini",
        812,
    )


async def test_what_is_not_kept_is_counted_and_its_answer_goes(
    make_recorder: MakeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = make_recorder(limits=Limits(total_bytes=100))
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    recorder.success(kwargs(payload(), call.nonce))
    await recorder.answered(data, response={})
    assert (recorder.lost, recorder.recorded) == (1, 0)
    assert "litellm.lost" in caplog.text


# --- the gate --------------------------------------------------------------------------------------------------------------


def gate_of(recorder: Recorder, api: UsageApi) -> Gate:
    return Gate(recorder.settings, Entitlements(Web(api.url, "tsk_test")), recorder.client.spool)


ALLOWED: Final = {"subscription": SUBSCRIPTION, "allowed": True, "status": "active", "reasons": [], "remaining": {}}


def says(content: dict[str, Any], status: int = 200) -> Callable[[Request], Said | None]:
    return lambda request: Said(status, content) if "/entitlements/" in request.path else None


async def test_who_may_go_on_is_let_in(make_recorder: MakeRecorder, api: UsageApi) -> None:
    recorder = make_recorder(enforce="entitlements")
    api.otherwise = says(ALLOWED)
    call, data = begin(recorder, api_key_hash=KEY_HASH)
    await gate_of(recorder, api).admit(call, data)
    assert [request.content for request in api.requests] == [{"api_key_hash": KEY_HASH, "count": True}]


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        (["quota_tokens"], 429),
        (["credits_exhausted"], 402),
        (["payment_overdue", "admin"], 402),
        (["admin"], 403),
        ([], 403),
    ],
)
async def test_who_may_not_go_on_is_told_why(
    make_recorder: MakeRecorder, api: UsageApi, reasons: list[str], status: int
) -> None:
    recorder = make_recorder(enforce="entitlements")
    api.otherwise = says({**ALLOWED, "allowed": False, "status": "suspended", "reasons": reasons})
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    gate = gate_of(recorder, api)
    with pytest.raises(Refused, match=", ".join(["suspended: " + reasons[0]] if reasons else ["suspended"])) as refused:
        await gate.admit(call, data)
    assert (refused.value.status, gate.refused) == (status, 1)
    recorder.failure(kwargs(failure(), call.nonce))
    await recorder.failed(data)
    assert arrived(recorder, api) == [], "who was refused used nothing"


@pytest.mark.parametrize("said", [Said(503, {"detail": "later"}), Said(401, {"detail": "who are you?"})])
@pytest.mark.parametrize("when_away", ["serve", "refuse"])
async def test_without_an_answer_the_settings_decide(
    make_recorder: MakeRecorder, api: UsageApi, said: Said, when_away: str
) -> None:
    recorder = make_recorder(enforce="reservations", when_away=when_away)
    api.otherwise = lambda _: said
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    gate = gate_of(recorder, api)
    if when_away == "serve":
        await gate.admit(call, data)
    else:
        with pytest.raises(Refused, match="try again later"):
            await gate.admit(call, data)
    assert gate.away == 1
    api.otherwise = lambda _: None


async def test_a_key_of_no_subscription_is_refused(make_recorder: MakeRecorder, api: UsageApi) -> None:
    recorder = make_recorder(enforce="reservations")
    call, data = begin(recorder, api_key_hash="unknown")
    with pytest.raises(Refused, match="no subscription may be charged") as refused:
        await gate_of(recorder, api).admit(call, data)
    assert refused.value.status == 403


async def test_a_full_spool_refuses_where_that_is_wanted(make_recorder: MakeRecorder, api: UsageApi) -> None:
    api.otherwise = lambda _: Said(503)
    recorder = make_recorder(limits=Limits(total_bytes=1000), when_full="refuse")
    call, data = begin(recorder, subscription=SUBSCRIPTION)
    gate = gate_of(recorder, api)
    await gate.admit(call, data)
    recorder.client.spool.append(b"x" * 985)
    with pytest.raises(Refused, match="cannot be recorded"):
        await gate.admit(call, data)


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        ({"messages": [{"role": "user", "content": "x" * 396}], "max_tokens": 50}, 150),
        ({"messages": [{"role": "user", "content": "x" * 396}]}, 1100),
        ({"input": ["x" * 40, "x" * 40], "max_completion_tokens": 0}, 20),
        ({"prompt": "x" * 40, "max_tokens": 10, "n": 3}, 40),
        (
            {
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:xxxx"}]}],
                "max_tokens": 1,
            },
            4,
        ),
        ({"messages": 7, "max_tokens": "many"}, 1000),
        ({"max_tokens": 0}, 1),
    ],
)
def test_tokens_are_estimated_by_length_and_limit(data: dict[str, Any], tokens: int) -> None:
    assert estimated_tokens(data, 1000) == tokens
