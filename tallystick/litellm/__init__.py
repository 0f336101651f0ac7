"""Usage of a LiteLLM proxy. In its configuration: `litellm_settings: {callbacks: [tallystick.litellm.callback]}`; docs/how-to/litellm.md.

`callback` is made when it is asked for, out of the environment: importing this package needs no litellm and no settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tallystick.litellm.settings import from_environment

if TYPE_CHECKING:
    from tallystick.litellm.plugin import TallystickLogger

    callback: TallystickLogger

__all__ = ["callback"]


def __getattr__(name: str) -> Any:
    if name != "callback":
        raise AttributeError(name)
    from tallystick.litellm.plugin import TallystickLogger  # noqa: PLC0415 – needs litellm

    made = TallystickLogger(from_environment())
    globals()["callback"] = made
    return made
