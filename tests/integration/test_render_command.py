"""`tallystick render` as finance runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pypdf import PdfReader

from services.cli.main import run
from shared.postgres import Pool
from tests.integration.billing_facts import Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("DATABASE_URL", database)
    await make_price(database_pool)
    return Desk(database_pool)


async def render(*arguments: str) -> int:
    """Run the command beside the test's own event loop."""
    return await asyncio.to_thread(run, ["render", *arguments])


async def test_a_months_invoices_become_files(desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        customer = await make_customer(desk.pool)
        await desk.use(usage(customer.subscription_id, request_tokens=123_456))
    numbers = sorted(invoice.number for invoice in (await desk.close()).invoices)
    capsys.readouterr()

    assert await render("--period", "2026-10", "--to", str(tmp_path / "october")) == 0
    said = capsys.readouterr()
    files = [Path(path) for path in said.out.split()]
    assert [file.name for file in files] == [f"{number}.pdf" for number in numbers]
    assert numbers[0] in PdfReader(files[0]).pages[0].extract_text()
    assert "2 PDFs without an e-invoice inside: it needs the seller's country" in said.err

    for form in ("html", "png"):
        assert await render(numbers[0], "--format", form, "--to", str(tmp_path)) == 0
        (path,) = capsys.readouterr().out.split()
        assert len(await asyncio.to_thread(Path(path).read_bytes)) > 1_000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "name the invoices to render"),
        (("INV-2026-000009",), "there is no invoice INV-2026-000009"),
        (("--period", "2026-13"), "--period: '2026-13' is not a month"),
        (("--period", "2020-01"), "no issued invoice"),
    ],
)
async def test_what_is_not_there_is_said_in_one_line(
    desk: Desk, tmp_path: Path, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await render(*arguments, "--to", str(tmp_path)) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1


async def test_an_e_invoice_that_lacks_something_is_refused(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=123_456))
    (issued,) = (await desk.close()).invoices
    assert await render(issued.number, "--format", "xml", "--to", str(tmp_path)) == 2
    assert "cannot be an e-invoice, it lacks the seller's country" in capsys.readouterr().err
