"""The plug-in's settings: each that is wrong or missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallystick.errors import ProducerError
from tallystick.litellm.settings import from_environment

HTTP = {"TALLYSTICK_URL": "https://usage.example.com", "TALLYSTICK_API_KEY": "tsk_x"}


def test_the_defaults_need_an_address_and_a_key() -> None:
    settings = from_environment(HTTP)
    assert (settings.enforce, settings.when_away, settings.cache_hits, settings.metadata) == (
        "off",
        "serve",
        "free",
        (),
    )
    assert settings.secret == "tsk_x"


def test_everything_can_be_said(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("tsk_y\n")
    said = {
        "TALLYSTICK_URL": "https://u", "TALLYSTICK_API_KEY_FILE": str(key), "TALLYSTICK_LITELLM_ENFORCE": "reservations",
        "TALLYSTICK_LITELLM_METADATA": "project, team", "TALLYSTICK_LITELLM_WAIT_SECONDS": "0.5", "TALLYSTICK_LITELLM_SPOOL_BYTES": "1000",
    }  # fmt: skip
    settings = from_environment(said)
    assert (settings.secret, settings.enforce, settings.metadata) == ("tsk_y", "reservations", ("project", "team"))
    assert (settings.wait_seconds, settings.spool_bytes) == (0.5, 1000)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "TALLYSTICK_URL and TALLYSTICK_API_KEY"),
        ({"TALLYSTICK_URL": "https://u"}, "no API key"),
        ({"TALLYSTICK_URL": "https://u", "TALLYSTICK_API_KEY_FILE": "/no/such/file"}, "cannot be read"),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "b:9092", "TALLYSTICK_LITELLM_ENFORCE": "entitlements"},
            "TALLYSTICK_LITELLM_ENFORCE is entitlements",
        ),
        ({**HTTP, "TALLYSTICK_LITELLM_ENFORCE": "yes"}, "one of off, entitlements, reservations"),
        ({**HTTP, "TALLYSTICK_LITELLM_WAIT_SECONDS": "long"}, "TALLYSTICK_LITELLM_WAIT_SECONDS is 'long'"),
        ({**HTTP, "TALLYSTICK_LITELLM_SPOOL_BYTES": "-1"}, "TALLYSTICK_LITELLM_SPOOL_BYTES is '-1'"),
        ({**HTTP, "TALLYSTICK_LITELLM_SPOL": "x"}, "TALLYSTICK_LITELLM_SPOL: no setting has this name"),
    ],
)
def test_what_is_wrong_is_named(environment: dict[str, str], told: str) -> None:
    with pytest.raises(ProducerError, match=told):
        from_environment(environment)


def test_without_litellm_the_plug_in_says_what_to_install() -> None:
    from tallystick import litellm as package  # noqa: PLC0415 – what is imported here is the subject

    with pytest.raises(ProducerError, match="pip install"):
        _ = package.callback
    with pytest.raises(AttributeError):
        _ = package.something_else
