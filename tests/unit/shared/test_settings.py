"""Settings name each variable that is missing or wrong; addresses in errors hide passwords."""

from __future__ import annotations

import pytest

from services.ingest.settings import Settings
from shared.errors import ConfigurationError
from shared.postgres import unavailable
from shared.settings import load


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("DATABASE_URL", "postgresql:///x")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    return monkeypatch


def test_settings_come_from_the_environment(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TALLYSTICK_INGEST_LATE_DAYS", "3")
    environ.setenv("TALLYSTICK_INGEST_METADATA_DEPTH", "2")

    limits = load(Settings).limits()

    assert (limits.late.days, limits.metadata_depth, limits.record_bytes) == (3, 2, 262_144)


def test_what_is_missing_is_named(environ: pytest.MonkeyPatch) -> None:
    environ.delenv("DATABASE_URL")
    environ.setenv("TALLYSTICK_INGEST_LANES", "none")

    with pytest.raises(ConfigurationError, match=r"DATABASE_URL: field required; TALLYSTICK_INGEST_LANES: .*integer"):
        load(Settings)


def test_lanes_that_could_wait_for_each_others_connections_are_refused(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TALLYSTICK_INGEST_LANES", "8")

    with pytest.raises(ConfigurationError, match="TALLYSTICK_DATABASE_POOL_MAX: 8 lanes need at least 10 connections"):
        load(Settings)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://joe:hunter2@db.example:5432/usage",
        "postgresql://joe@db.example/usage?password=hunter2&sslmode=require",
        "postgresql:///usage?host=/var/run&password=hunter2",
    ],
)
def test_an_address_in_an_error_has_no_password(address: str) -> None:
    message = str(unavailable(address, OSError("Connection refused\nand more")))

    assert "hunter2" not in message
    assert "usage" in message
    assert "\n" not in message
    assert "check DATABASE_URL" in message
