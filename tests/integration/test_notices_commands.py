"""`tallystick jobs`, `webhooks` and `alerts`, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from services.billing.events import INVOICE_ISSUED, billing_event
from services.billing.notices.signing import new_key
from services.cli.main import run
from shared.clock import SystemClock
from shared.ids import uuid7
from shared.outbox import Outbox
from tests.integration.webhook_facts import NOTICES

Type = Callable[..., tuple[int, str, str]]
URL = "https://hooks.example/in"


@pytest.fixture
def database(ingest_database: str) -> str:
    """A database that is used by one test after the other: cheaper than one for each."""
    ask(ingest_database, f"TRUNCATE {NOTICES}")
    return ingest_database


@pytest.fixture
def tallystick(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command; returns its exit code and what it prints. In a thread's place: commands run event loops of their own."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("TALLYSTICK_BILLING_WEBHOOK_KEYS", new_key())
    monkeypatch.setenv("COLUMNS", "250")

    def command(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(words)
        out, err = capsys.readouterr()
        return code, out, err

    return command


def ask(database: str, sql: str, *arguments: Any) -> list[Any]:
    """Ask the database."""

    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(database)
        try:
            return await connection.fetch(sql, *arguments)  # type: ignore[no-any-return]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def test_jobs_are_shown_and_run(tallystick: Type, database: str) -> None:
    code, out, _ = tallystick("jobs", "list", "--json")
    names = [job["name"] for job in json.loads(out)]
    assert code == 1, "nobody has run them yet"
    assert {
        "close period",
        "reconcile",
        "raise alerts",
        "dun",
        "mark overdue",
        "expire credits",
        "renew allowances",
    } <= set(names)

    code, out, _ = tallystick("jobs", "run", "raise-alerts", "--by", "alice")
    assert (code, out.splitlines()[0].endswith(": done")) == (0, True)
    assert ask(database, "SELECT job, asked_by, worker FROM job_runs") == [("raise alerts", "alice", "by hand")]
    _, out, _ = tallystick("jobs", "list")
    assert "done by alice" in out


def test_what_other_services_do_continuously_is_shown_and_done_at_once(tallystick: Type, database: str) -> None:
    user = ask(database, "INSERT INTO users (email) VALUES ('ada@example.com') RETURNING id")[0]["id"]
    ask(
        database,
        """INSERT INTO subscriptions (user_id, plan_id, status, amount, currency, quota_requests, used_requests, quota_period_start, reset_at)
           VALUES ($1, 'basic', 'active', 0, 'EUR', 10, 7, '2026-01-01Z', '2026-02-01Z')""",
        user,
    )
    tallystick("jobs", "run", "make-partitions")
    code, out, _ = tallystick("jobs", "list", "--json")
    always = {
        job["name"]: (job["service"], job["waiting"], job["overdue"]) for job in json.loads(out) if "service" in job
    }
    assert (code, always) == (
        1, {"roll quota periods": ("aggregator", 1, True), "make partitions": ("ingest", 0, False)},
    )  # fmt: skip
    assert tallystick("jobs", "run", "roll-quota-periods")[:2] == (0, "roll quota periods: done\n  rolled: 1\n")
    assert ask(database, "SELECT used_requests FROM subscriptions")[0]["used_requests"] == 0
    assert "continuous, aggregator  nothing overdue" in tallystick("jobs", "list")[1]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("make-partitions", "--at", "2026-02-14"), "is done continuously by ingest, and for no time: leave --at out"),
        (("raise weather",), "there is no job 'raise weather': there are '"),
        (("close period",), "'close period' has nothing to do now; the next time is"),
        (("close period", "--at", "2026-02-14"), "was never scheduled for 2026-02-14"),
        (("close period", "--at", "2999-01-02"), "has not come yet"),
        (("reconcile", "--at", "tomorrow"), "'tomorrow' is not a time: write it like"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_in_one_line(tallystick: Type, words: tuple[str, ...], why: str) -> None:
    code, out, err = tallystick("jobs", "run", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert why in err


def test_an_endpoint_from_its_registration_to_its_redelivery(tallystick: Type, database: str) -> None:
    code, out, err = tallystick("webhooks", "add", URL, "--event", "tallystick.invoice.*", "--by", "alice")
    assert code == 0
    found = re.fullmatch(r"endpoint ([0-9a-f-]{36})\nsecret   (whsec_\S+)\n", out)
    assert found, out
    assert "not shown again" in err
    endpoint, secret = found.groups()
    (listed,) = json.loads(tallystick("webhooks", "list", "--json")[1])
    assert (listed["id"], listed["url"], listed["enabled"], listed["created_by"]) == (endpoint, URL, True, "alice")
    assert secret not in tallystick("webhooks", "list")[1]

    _, out, _ = tallystick("webhooks", "rotate-secret", endpoint)
    assert re.search(r"^secret   whsec_\S+$", out, re.MULTILINE)
    assert secret not in out
    assert (
        tallystick("webhooks", "reencrypt-secrets")[1] == "the secrets of 1 endpoint are encrypted with the first key\n"
    )

    _announce(database)
    assert tallystick("webhooks", "ping", endpoint)[0] == 0
    waiting = json.loads(tallystick("webhooks", "deliveries", "--status", "pending", "--json")[1])
    assert sorted(line["type"] for line in waiting) == [INVOICE_ISSUED, "tallystick.webhook.test.v1"]
    ask(database, "UPDATE webhook_deliveries SET status = 'failed', next_attempt_at = NULL, finished_at = now()")
    assert tallystick("webhooks", "redeliver", waiting[0]["id"])[1] == "1 delivery is due again\n"
    assert (
        tallystick("webhooks", "redeliver", "--endpoint", endpoint, "--since", "2026-01-01")[1]
        == "1 delivery is due again\n"
    )
    assert tallystick("webhooks", "redeliver", "--endpoint", endpoint, "--since", "2026-01-01", "--all", "--yes")[
        1
    ].startswith("2 ")

    assert tallystick("webhooks", "disable", endpoint, "--why", "moving", "--by", "alice")[0] == 0
    assert json.loads(tallystick("webhooks", "list", "--json")[1])[0]["disabled_reason"] == "moving (by alice)"
    assert tallystick("webhooks", "enable", endpoint)[1] == f"endpoint {endpoint} is enabled\n"


def _announce(database: str) -> None:
    async def enqueue() -> None:
        connection = await asyncpg.connect(database)
        message = billing_event(INVOICE_ISSUED, uuid7(), SystemClock().now(), {})
        await Outbox("billing_outbox").enqueue(connection, [message])
        await connection.close()

    asyncio.run(enqueue())


NOBODY = "01a1fc8b-1458-7639-bf6a-918a06641847"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "http://hooks.example/"), "is not https://"),
        (("add", "https://192.168.0.1/"), "leads to an address that is private"),
        (("add", URL, "--user", NOBODY), f"there is no user '{NOBODY}'"),
        (("add", URL, "--event", "weather.*"), "no event is called 'weather.*'"),
        (("enable", NOBODY), f"there is no webhook endpoint {NOBODY}"),
        (("disable", NOBODY, "--why", "x"), f"there is no webhook endpoint {NOBODY}"),
        (("disable", NOBODY, "--why", " "), "--why is empty"),
        (("rotate-secret", NOBODY), f"there is no webhook endpoint {NOBODY}"),
        (("ping", NOBODY), f"there is no webhook endpoint {NOBODY}"),
        (("deliveries", "--status", "lost"), "'lost' is no status of a delivery"),
        (("redeliver",), "say which deliveries"),
        (("redeliver", "--endpoint", NOBODY), "say which deliveries"),
        (("redeliver", NOBODY), f"there is no delivery {NOBODY}"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tallystick: Type, words: tuple[str, ...], why: str) -> None:
    code, out, err = tallystick("webhooks", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert why in err


@pytest.mark.parametrize("keys", ["", "not a key"])
def test_without_a_key_no_endpoint_is_added(tallystick: Type, monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("TALLYSTICK_BILLING_WEBHOOK_KEYS", keys)
    code, _, err = tallystick("webhooks", "add", URL)
    assert code == 2
    assert "tallystick webhooks new-key" in err


def test_alerts_are_chosen_and_shown(tallystick: Type, database: str) -> None:
    user = uuid7()
    ask(database, "INSERT INTO users (id, email) VALUES ($1, $2)", user, f"{user.hex}@example.com")
    assert tallystick("alerts", "list")[1] == "no alerts\n"
    assert tallystick("alerts", "choices", str(user))[1] == "nothing chosen: everything is alerted\n"
    assert tallystick("alerts", "choose", str(user), "spend", "--at", "500,100")[0] == 0
    assert tallystick("alerts", "choose", str(user), "low_balance", "--off")[0] == 0
    assert tallystick("alerts", "choices", str(user))[1] == "low_balance: off\nspend: on at 100, 500\n"
    code, _, err = tallystick("alerts", "choose", str(user), "weather")
    assert (code, "there is no alert 'weather'" in err) == (2, True)
    assert tallystick("alerts", "choose", str(user), "spend", "--at", "lots")[0] == 2
    ask(
        database,
        "INSERT INTO billing_alerts (user_id, type, message) VALUES ($1, 'invoice_overdue', 'pay \x1b[31m')",
        user,
    )
    ask(database, "INSERT INTO billing_alerts (user_id, type, message) VALUES ($1, 'low_balance', 'unwanted')", user)
    _, out, _ = tallystick("alerts", "list", "--unread")
    assert out.endswith(f"{user}  invoice_overdue: pay \\x1b[31m\n")
    assert [alert["type"] for alert in json.loads(tallystick("alerts", "list", "--user", str(user), "--json")[1])] == [
        "invoice_overdue"
    ]
