"""What holds for every request: ids, sizes, headers, a log without secrets, errors in one form."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from structlog.testing import capture_logs

from services.api.problems import BY_STATUS, KINDS
from tests.integration.api.facts import Facts


async def test_an_answer_names_its_request_and_is_not_to_be_kept_or_guessed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/me", headers={"X-Request-Id": "gateway-1.4711"})
    assert answer.headers["x-request-id"] == "gateway-1.4711"
    assert answer.json()["instance"] == "urn:request:gateway-1.4711"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    unfit = await client.get("/api/v1/me", headers={"X-Request-Id": "a b"})
    assert unfit.headers["x-request-id"] != "a b"


@pytest.mark.parametrize(
    ("method", "path", "kind"), [("GET", "/api/v1/nothing", "not-found"), ("PUT", "/api/v1/me", "method-not-allowed")]
)
async def test_what_is_not_there_is_a_problem_too(client: httpx.AsyncClient, method: str, path: str, kind: str) -> None:
    answer = await client.request(method, path)
    assert answer.json()["type"] == f"urn:tallystick:problem:{kind}"
    assert answer.json()["status"] == answer.status_code


async def test_a_bug_is_logged_whole_and_told_in_one_sentence(app: FastAPI, client: httpx.AsyncClient) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("the secret of the failing line")

    with capture_logs() as logs:
        answer = await client.get("/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["detail"]
    assert [entry["error"] for entry in logs if entry["event"] == "request_failed"] == [
        "ZeroDivisionError('the secret of the failing line')"
    ]


async def test_the_access_log_has_neither_credentials_nor_queries(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    with capture_logs() as logs:
        await client.get("/api/v1/me?token=hidden", headers=ada.headers)
    [line] = [entry for entry in logs if entry["event"] == "request"]
    assert (line["route"], line["status"], line["who"]) == ("/api/v1/me", 200, str(ada.key_id))
    assert "hidden" not in str(logs)
    assert ada.key not in str(logs)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(
    app: FastAPI, client: httpx.AsyncClient, announced: bool
) -> None:
    sent: list[int] = []

    @app.post("/swallow")
    async def swallow(request: Request) -> int:
        return len(await request.body())

    async def body() -> Any:
        for _ in range(64):
            sent.append(1)
            yield b"x" * 2**17

    headers = {"Content-Length": str(64 * 2**17)} if announced else {}
    answer = await client.post("/swallow", content=body(), headers=headers)
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:tallystick:problem:payload-too-large"


def test_every_status_has_one_kind_that_stands_for_it() -> None:
    assert len({kind.slug for kind in KINDS}) == len(KINDS)
    assert all(BY_STATUS[kind.status].status == kind.status for kind in KINDS)
