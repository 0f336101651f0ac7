"""`tallystick verify` and `tallystick rebuild` as a person meets them: what they print, and with which code they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from services.cli import main
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.aggregator_facts import Aggregator, make_subscription
from tests.integration.billing_facts import usage
from tests.integration.rebuild_facts import derived, store_batch
from tests.unit.aggregator.facts import NOON


@pytest.fixture
async def subscription_id(database_pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """A subscription with usage in November, in the database that the command finds."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("COLUMNS", "200")
    id_ = await make_subscription(database_pool)
    await Aggregator(database_pool).apply(*await store_batch(database_pool, [usage(id_, at=NOON, request_tokens=10)]))
    return id_


@pytest.fixture
def tallystick(capsys: pytest.CaptureFixture[str]) -> Callable[..., Awaitable[tuple[int, str, str]]]:
    """Run a command; return its exit code, stdout and stderr."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main.run, arguments)
        return code, *capsys.readouterr()

    return run


Command = Callable[..., Awaitable[tuple[int, str, str]]]


async def test_nothing_differs(subscription_id: UUID, tallystick: Command) -> None:
    code, out, err = await tallystick("verify")
    assert (code, err) == (0, "")
    assert out == "1 events of all event times: 3 summary rows\nnothing differs\n"


async def test_differences_are_shown_with_both_sides_and_nothing_is_written(
    database_pool: Pool, subscription_id: UUID, tallystick: Command
) -> None:
    await database_pool.execute("UPDATE usage_summaries SET request_tokens = 12345 WHERE period_type = 'day'")
    before = await derived(database_pool)
    for command in ("verify", "rebuild"):
        code, out, _ = await tallystick(command, "--from", "2026-11-14T05", "--to", "2026-11-15")
        assert code == 1
        assert "widened to whole months" in out
        assert "event times from 2026-11-01 00:00 to 2026-12-01 00:00 UTC" in out
        assert str(subscription_id) in out
        assert "request tokens" in out
        assert "12,345" in out
        assert "1 day differ" in out
    assert await derived(database_pool) == before


async def test_rebuild_applies_only_with_a_yes(
    database_pool: Pool, subscription_id: UUID, tallystick: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    live = await derived(database_pool)
    await database_pool.execute(
        "UPDATE usage_summaries SET request_count = 5; UPDATE subscriptions SET used_requests = 5"
    )
    code, _, err = await tallystick("rebuild", "--subscription", str(subscription_id), "--apply")
    assert (code, err) == (2, "tallystick: --apply writes summaries and counters: repeat with --yes if that is meant\n")
    code, out, _ = await tallystick("rebuild", "--subscription", str(subscription_id), "--apply", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "wrote 3 summary rows and the counters of 1 subscriptions")
    assert await derived(database_pool) == live
    assert (await tallystick("rebuild", "--apply", "--yes"))[0] == 0


async def test_json_has_both_sides(database_pool: Pool, subscription_id: UUID, tallystick: Command) -> None:
    await database_pool.execute("UPDATE usage_summaries SET request_tokens = 0 WHERE period_type = 'hour'")
    code, out, _ = await tallystick("rebuild", "--apply", "--yes", "--json")
    document = json.loads(out)
    (difference,) = document["differences"]
    assert code == 0
    assert (difference["kind"], difference["measures"]) == ("hour", ["request_tokens"])
    assert (difference["stored"]["request_tokens"], difference["recomputed"]["request_tokens"]) == (0, 10)
    assert document["differing"] == {"hour": 1}
    assert document["written"] == {"summaries": 1, "counters": 0, "left_out": []}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--from", "2026-11-02", "--to", "2026-11-01"], "the range ends (2026-11-01T00:00Z) before it begins (2026-11-02T00:00Z)"),
        (["--from", "2026-11-02", "--to", "2026-11-02"], "the range ends (2026-11-02T00:00Z) before it begins (2026-11-02T00:00Z)"),
        (["--from", "noon"], "'noon' is not an hour; write it like 2026-11-01 or 2026-11-01T05:00Z"),
        (["--to", "9999-12-31"], "'9999-12-31' is not an hour; write it like 2026-11-01 or 2026-11-01T05:00Z"),
        (["--subscription", "12"], "'12' is not the id of a subscription: a UUID is expected"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["verify", "rebuild"])
async def test_what_cannot_be_meant_is_one_line(
    *,
    database: str,
    tallystick: Command,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    code, out, err = await tallystick(command, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"tallystick: {line}")


async def test_an_unknown_subscription_is_one_line(subscription_id: UUID, tallystick: Command) -> None:
    unknown = uuid7()
    code, out, err = await tallystick("verify", "--subscription", str(unknown))
    assert (code, out, err) == (2, "", f"tallystick: there is no subscription {unknown}\n")


async def test_a_database_without_our_schema_is_one_line(
    empty_database: str, tallystick: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database)
    code, _, err = await tallystick("verify")
    assert code == 2
    assert err.endswith("run 'tallystick migrate'\n")
    assert err.count("\n") == 1
