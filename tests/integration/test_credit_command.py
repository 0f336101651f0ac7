"""`tallystick credits`, as an operator runs it, with mistakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from services.cli.main import run
from shared.postgres import Pool
from tests.integration.schema_facts import make_user

Command = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def tallystick(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command on this test's database: exit code and what it prints."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("TALLYSTICK_LOCAL_DIR", str(tmp_path))

    async def command(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, ["credits", *arguments])
        printed = capsys.readouterr()
        return code, printed.out or printed.err

    return command


@pytest_asyncio.fixture
async def ada(database_pool: Pool) -> UUID:
    """A user, ada@example.com."""
    async with database_pool.acquire() as connection:
        return await make_user(connection, email="ada@example.com")


async def answer(tallystick: Command, *arguments: str) -> Any:
    code, printed = await tallystick(*arguments, "--json")
    assert code == 0, printed
    return json.loads(printed)


async def test_credits_are_given_used_corrected_and_shown(tallystick: Command, database_pool: Pool, ada: UUID) -> None:
    for _ in range(2):
        given = await answer(
            tallystick, "grant", "ada@example.com", "100", "--why", "welcome", "--by", "grace", "--key", "welcome-ada",
            "--expires", "2099-01-01",
        )  # fmt: skip
    assert given["balance"] == "100"
    await answer(tallystick, "refund", str(ada), "2.50", "--why", "slow answers", "--by", "grace")
    await database_pool.execute("SELECT settle_user_credits($1, 30, 'w1')", ada)
    assert (await answer(tallystick, "adjust", str(ada), "--take", "10", "--why", "typo", "--by", "grace"))[
        "balance"
    ] == "62.5"
    account = await answer(tallystick, "balance", "ADA@example.com")
    assert (account["balance"], account["owed"], account["next_expiry"]) == ("62.5", "0", "2099-01-01T00:00:00+00:00")
    entries = await answer(tallystick, "history", "ada@example.com")
    assert [(e["type"], e["amount"], [(g["kind"], g["amount"]) for g in e["grants"]]) for e in entries] == [
        ("admin_adjustment", "-10", [("promotional", "-10")]),
        ("usage", "-30", [("promotional", "-30")]),
        ("refund", "2.5", [("refund", "2.50")]),
        ("promotional", "100", [("promotional", "100")]),
    ]
    grants = await answer(tallystick, "grants", str(ada))
    assert [(g["kind"], g["remaining"], g["name"]) for g in grants] == [
        ("promotional", "60", "welcome"),
        ("refund", "2.5", "slow answers"),
    ]
    audited = await database_pool.fetch(
        "SELECT actor, action, user_id FROM audit_logs WHERE resource_type = 'credits' ORDER BY created_at"
    )
    assert [tuple(row) for row in audited] == [
        ("grace", "credits.granted", ada), ("grace", "credits.granted", ada), ("grace", "credits.adjusted", ada),
    ]  # fmt: skip
    for command in ("balance", "history", "grants"):
        code, printed = await tallystick(command, str(ada))
        assert code == 0
        assert "62.5" in printed or "60" in printed


async def test_money_is_given_for_invoices(tallystick: Command, ada: UUID) -> None:
    code, printed = await tallystick(
        "grant", str(ada), "25", "--currency", "EUR", "--kind", "compensation", "--why", "outage", "--by", "grace"
    )
    assert (code, "25 EUR for the next invoices" in printed) == (0, True)
    assert (await answer(tallystick, "balance", str(ada)))["money"] == {"EUR": "25"}


async def test_terms_are_listed_and_set(tallystick: Command, database_pool: Pool, ada: UUID) -> None:
    assert (await answer(tallystick, "package", "list"))[0]["name"] == "Starter Pack"
    assert (await tallystick("rate", "set", "CHF", "12", "--from", "2026-01-01", "--by", "grace"))[0] == 0
    assert [r["currency"] for r in await answer(tallystick, "rate", "list")] == ["CHF", "EUR", "USD"]
    assert (await tallystick("tier", "change", "starter", "--allowance", "50", "--rollover", "1", "--by", "grace"))[
        0
    ] == 0
    assert (await tallystick("tier", "set", str(ada), "starter", "--by", "grace"))[0] == 0
    assert (await tallystick("topup", str(ada), "--below", "20", "--package", "value pack", "--by", "grace"))[0] == 0
    assert (await tallystick("alert", str(ada), "--below", "30", "--by", "grace"))[0] == 0
    row = await database_pool.fetchrow("SELECT * FROM user_credits WHERE user_id = $1", ada)
    facts = (
        row["tier"],
        row["monthly_allowance"],
        row["auto_renew"],
        row["auto_topup_threshold"],
        row["low_balance_threshold"],
    )
    assert facts == ("starter", 50, True, 20, 30)
    assert (await tallystick("topup", str(ada), "--off", "--by", "grace"))[0] == 0
    assert (
        await database_pool.fetchval("SELECT auto_topup_package_id FROM user_credits WHERE user_id = $1", ada) is None
    )
    assert "kept 1 month longer" in (await tallystick("tier", "list"))[1]


async def test_packages_are_offered_changed_and_retired(tallystick: Command, database_pool: Pool) -> None:
    terms = (
        "--credits",
        "2500",
        "--price",
        "190",
        "--currency",
        "EUR",
        "--valid-days",
        "365",
        "--tier",
        "starter",
        "--by",
        "grace",
    )
    made = await answer(tallystick, "package", "set", "Team Pack", *terms)
    assert (made["credits"], made["price"], made["valid_days"], made["min_tier"], made["is_active"]) == (
        "2500", "190", 365, "starter", True,
    )  # fmt: skip
    changed = await answer(
        tallystick, "package", "set", "team pack", "--price", "199.90", "--valid-days", "0", "--by", "ada"
    )
    assert {**made, "price": "199.9", "valid_days": None} == changed
    await answer(tallystick, "package", "set", "team pack", "--price", "199.90", "--by", "ada")
    await answer(tallystick, "package", "retire", "Team Pack", "--by", "grace")
    assert "Team Pack" not in (await tallystick("package", "list"))[1]
    assert "is not on sale already" in (await tallystick("package", "retire", "Team Pack"))[1]
    assert "is on sale" in (await tallystick("package", "set", "Team Pack", "--tier", "", "--by", "grace"))[1]
    trail = await database_pool.fetch(
        "SELECT action, actor, before ->> 'price', after ->> 'price' FROM audit_logs WHERE resource_type = 'credit_package' ORDER BY created_at"
    )
    assert [tuple(row) for row in trail] == [
        ("credits.package_set", "grace", None, "190"), ("credits.package_set", "ada", "190", "199.9"),
        ("credits.package_retired", "grace", None, None), ("credits.package_set", "grace", None, None),
    ]  # fmt: skip


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("balance", "nobody@example.com"), "there is no user 'nobody@example.com'"),
    (("grant", "ada@example.com", "-5", "--why", "x"), "No such option"),
    (("grant", "ada@example.com", "ten", "--why", "x"), "'ten' is not an amount"),
    (("grant", "ada@example.com", "0", "--why", "x"), "0 credits cannot be given"),
    (("grant", "ada@example.com", "5", "--why", " "), "--why is empty"),
    (("grant", "ada@example.com", "5", "--why", "x", "--kind", "purchase"), "not given by hand"),
    (("grant", "ada@example.com", "5", "--why", "x", "--expires", "2020-01-01"), "have expired already"),
    (("grant", "ada@example.com", "0.001", "--currency", "EUR", "--why", "x"), "cannot be given"),
    (("adjust", "ada@example.com", "--why", "x", "--take", "5"), "insufficient credits: 5 to take back, 0 available"),
    (("adjust", "ada@example.com", "--why", "x"), "say --add CREDITS or --take CREDITS"),
    (("adjust", "ada@example.com", "--why", "x", "--add", "5", "--take", "5"), "say --add CREDITS or --take CREDITS"),
    (("grant", "ada@example.com", "1.0000000000000000001", "--why", "x"), "have too many digits: at most 18"),
    (("adjust", "ada@example.com", "--add", "1e-19", "--why", "x"), "have too many digits"),
    (("rate", "set", "USD", "1e-30", "--from", "2099-01-01"), "have too many digits"),
    (("rate", "set", "EURO", "5"), "a rate is above zero"),
    (("rate", "set", "USD", "5", "--from", "2000-01-01"), "has a rate from"),
    (("tier", "set", "ada@example.com", "gold"), "there is no tier 'gold'"),
    (("package", "set", "New Pack", "--credits", "5"), "a new one needs price, currency"),
    (("package", "set", "New Pack", "--credits", "0", "--price", "5", "--currency", "EUR"), "credits 0 cannot be"),
    (("package", "set", "New Pack", "--credits", "5", "--price", "NaN", "--currency", "EUR"), "'NaN' is not an amount"),
    (("package", "set", "New Pack", "--credits", "5", "--price", "5.001", "--currency", "EUR"), "has too many digits"),
    (("package", "set", "New Pack", "--credits", "5", "--price", "5", "--currency", "euro"), "'euro' is no currency"),
    (("package", "set", "Pro Pack", "--currency", "EUR"), "is sold in USD"),
    (("package", "set", "Pro Pack", "--tier", "gold"), "there is no tier 'gold'"),
    (("package", "retire", "Gold"), "there is no package 'Gold'"),
    (("topup", "ada@example.com", "--below", "5"), "say --below CREDITS --package NAME"),
    (("topup", "ada@example.com", "--below", "5", "--package", "Gold"), "there is no package 'Gold'"),
]


@pytest.mark.usefixtures("ada")
async def test_a_mistake_is_one_line_and_changes_nothing(tallystick: Command, database_pool: Pool) -> None:
    for arguments, why in MISTAKES:
        code, printed = await tallystick(*arguments)
        assert (code, printed.count("\n")) == (2, 1), printed
        assert why in printed
    assert await database_pool.fetchval("SELECT count(*) FROM credit_transactions") == 0
    assert await database_pool.fetchval("SELECT count(*) FROM audit_logs WHERE resource_type = 'credits'") == 0
