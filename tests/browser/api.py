"""The API as it is served, with a bank in memory where a payment provider is: `python -m tests.browser.api`."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI

from services.api import serving
from services.api.app import build
from services.api.settings import Settings
from services.api.state import parts_of
from shared.clock import Clock
from shared.postgres import Pool
from tests.integration.payment_facts import VerifyingBank

BANK_SECRET: Final = "whsec_of_the_browser"
"""What signs the webhooks of the bank."""


def build_with_bank(settings: Settings, pool: Pool, clock: Clock | None = None) -> FastAPI:
    """Wire the application, and let the bank take its payments."""
    app = build(settings, pool, clock)
    parts_of(app).capabilities.providers.use(VerifyingBank(BANK_SECRET))
    return app


if __name__ == "__main__":
    vars(serving)["build"] = build_with_bank
    serving.main()
