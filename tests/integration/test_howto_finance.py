"""What the how-to pages for finance tell one to type is typed here, as it stands on the pages, one page after the other."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from services.cli.main import run
from shared.postgres import Pool
from tests.documentation import blocks_of
from tests.integration.billing_facts import Desk, make_customer, make_price, usage

PAGES: Final = Path(__file__).parents[2] / "docs" / "how-to"
THIS_YEAR: Final = datetime.now(UTC).year


def commands(page: str) -> Iterator[str]:
    """Yield the `tallystick` commands of a page's code blocks and tables, without prompt; what lies ahead there lies ahead of today."""
    text = (PAGES / page).read_text(encoding="utf-8")
    blocks = [block.body for block in blocks_of(text) if block.info in ("", "console")]
    for block in blocks + re.findall(r"^\|.*`(tallystick [^`]+)`", text, re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.removeprefix("$ ").startswith("tallystick "):
                ahead = line.removeprefix("$ ").replace("2027-", f"{THIS_YEAR + 1}-")
                yield re.sub(r"\b(INV|CN)-2026-", rf"\1-{THIS_YEAR}-", ahead)


class Reader:
    """Somebody who follows the pages, with ada@example.com and grace@example.com for customers."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, page: str, begins: str, *, code: int = 0, instead: Mapping[str, str] | None = None) -> str:
        """Type the first command of a page that begins like this, with words of it replaced; return what it says."""
        found = [one for one in commands(page) if one.startswith(f"tallystick {begins}")]
        assert found, f"{page} has no 'tallystick {begins}' any more"
        words = [(instead or {}).get(word, word) for word in shlex.split(found[0])[1:]]
        self._capsys.readouterr()
        got = await asyncio.to_thread(run, words)
        said = self._capsys.readouterr()
        assert got == code, f"{found[0]}: {said.err or said.out}"
        return said.out if got == 0 else said.err


@pytest.fixture
async def desk(database_pool: Pool, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """October's usage of two customers: 73.22 and 87.13 USD, as on the pages."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("TALLYSTICK_LOCAL_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    await make_price(database_pool)
    desk = Desk(database_pool)
    for name, read, written in (("ada", 20_000_000, 2_322_000), ("grace", 20_000_000, 3_713_000)):
        customer = await make_customer(database_pool)
        await database_pool.execute(
            "UPDATE users SET email = $2 WHERE id = $1", customer.user_id, f"{name}@example.com"
        )
        await desk.use(usage(customer.subscription_id, request_tokens=read, response_tokens=written))
    return desk


@pytest.fixture
def follow(capsys: pytest.CaptureFixture[str]) -> Reader:
    return Reader(capsys)


async def test_a_price_is_set(desk: Desk, follow: Reader) -> None:
    page = "set-a-price.md"
    assert "gpt-4o" in await follow(page, "price list")
    assert "ends then" in await follow(page, "price set --model")
    version = str(await desk.value("SELECT id FROM model_prices WHERE valid_to IS NULL"))
    await follow(page, "price end", instead={"ID": version})
    assert len((await follow(page, "price list --model")).splitlines()) == 2


async def test_a_month_is_run_corrected_paid_back_and_explained(desk: Desk, follow: Reader) -> None:
    month, correct = "run-a-month.md", "correct-an-invoice.md"
    await follow(month, "invoice entity default")
    await follow(month, "invoice profile")
    assert "grace@example.com" in await follow(month, "invoice preview")
    assert "2 drafts" in await follow(month, "invoice draft")
    issued = await follow(month, "invoice close")
    assert "73.22 USD" in issued
    assert "2 invoices issued" in issued
    one_line = {f"INV-{THIS_YEAR}-000001/3": f"INV-{THIS_YEAR}-000001/2"}
    assert "exactly this" in await follow("explain-an-amount.md", "explain INV", instead=one_line)

    assert "partially paid" in await follow("take-payments.md", "payments record", instead={"EUR": "USD"})
    assert "manual" in await follow("refund.md", "payments list")
    paid = {"01a1fd33-…": str(await desk.value("SELECT id FROM payments"))}
    assert "31.00 USD of the payment are left" in await follow("refund.md", "payments refund", instead=paid)

    second = f"INV-{THIS_YEAR}-000002"
    assert f"{second} is disputed" in await follow(correct, "invoice dispute")
    assert second in await follow(correct, "invoice list --disputed")
    assert "18.60" in await follow(correct, f"invoice credit-note {second} --line 2=18.60")
    assert "cannot be taken back" in await follow(correct, f"invoice credit-note {second} --line 2=30", code=2)
    await follow(correct, f"invoice void INV-{THIS_YEAR}-000001")
    await follow(correct, "invoice profile")
    assert f"INV-{THIS_YEAR}-000003" in await follow(correct, "invoice close")
    assert "cancelled" in await follow(correct, "invoice list --user")
    await follow(correct, f"invoice void {second}")
    assert await desk.differing() == []


async def test_credit_is_given_and_corrected(desk: Desk, follow: Reader) -> None:
    page = "give-credit.md"
    assert "100 credits now" in await follow(page, "credits grant ada@example.com 100")
    assert "600 credits now" in await follow(page, "credits grant ada@example.com 500")
    assert "600 credits" in await follow(page, "credits balance")
    assert "bonus" in await follow(page, "credits history")
    assert "612.5 credits now" in await follow(page, "credits refund")
    assert "542.5 credits now" in await follow(page, "credits adjust ada@example.com --take 70")
    assert "25 EUR" in await follow(page, "credits grant ada@example.com 25")
    assert "Value Pack" in await follow(page, "credits package list") + await follow(page, "credits topup")
    assert await desk.differing() == []
