"""What routes share: made once by the composition root, found through the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import FastAPI, Request

from services.api.settings import Settings
from shared.clock import Clock

if TYPE_CHECKING:
    from services.accounts.provider_keys.keyring import Keyring
    from services.api.auth.api_keys import ApiKeys
    from services.api.auth.sessions import LoggedIn
    from services.api.auth.tokens import Tokens
    from services.api.capabilities import Capabilities
    from services.api.console.code_flow import CodeFlow
    from services.api.database import Database
    from services.api.entitlements import Entitlements
    from services.api.events.intake import Intake
    from services.api.events.replays import Replays
    from services.api.limits import RateLimits
    from services.api.operation import Ends
    from services.api.reservations import Reservations
    from services.api.usage.live import Live


@dataclass(frozen=True, slots=True)
class State:
    """The API's parts."""

    settings: Settings
    clock: Clock
    database: Database
    api_keys: ApiKeys
    sessions: LoggedIn
    tokens: Tokens
    code_flow: CodeFlow | None
    provider_keyring: Keyring | None
    capabilities: Capabilities
    ends: Ends
    rate_limits: RateLimits
    live: Live
    events: Intake
    replays: Replays
    entitlements: Entitlements
    reservations: Reservations


def put_state(app: FastAPI, state: State) -> None:
    """Let the routes of an application find its parts."""
    app.state.tallystick = state


def state_of(request: Request) -> State:
    """Return the parts of the application that answers a request."""
    return parts_of(request.app)


def parts_of(app: FastAPI) -> State:
    """Return the parts of an application."""
    return cast("State", app.state.tallystick)
