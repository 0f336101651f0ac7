"""The version of the distribution that runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return it; 0 for a checkout that is not installed."""
    try:
        return version("tallystick")
    except PackageNotFoundError:
        return "0"
