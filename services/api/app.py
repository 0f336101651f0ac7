"""The API's composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute

from services.accounts.sessions.desk import Sessions
from services.api import answering, problems
from services.api.auth.api_keys import ApiKeys
from services.api.auth.oidc.opening import tokens_of
from services.api.auth.sessions import LoggedIn
from services.api.boundary import Boundary
from services.api.capabilities import Capabilities
from services.api.console.code_flow import code_flow_of
from services.api.console.routes import ROUTER as CONSOLE
from services.api.database import Database
from services.api.entitlements import Entitlements
from services.api.events.intake import Intake
from services.api.events.publishing import Publisher
from services.api.events.replays import Replays
from services.api.operation import Ends
from services.api.provider_keys.watching import keyring_of, watch_provider_keys
from services.api.reservations import Reservations
from services.api.routes import ROUTERS
from services.api.settings import Settings
from services.api.state import State, put_state
from services.api.usage.live import Live
from shared.clock import Clock, SystemClock
from shared.contracts import USAGE_EVENTS
from shared.kafka_security import librdkafka_security
from shared.postgres import Pool
from shared.version import installed_version

DESCRIPTION = (
    "Usage in, entitlements and reservations, usage, credits and invoices out. Amounts are decimal strings, times have a zone, "
    "errors are problem+json with stable types."
)


def build(settings: Settings, pool: Pool, clock: Clock | None = None) -> FastAPI:
    """Wire the application. What it opens, it opens when it starts, and closes when it stops."""
    clock = clock or SystemClock()
    capabilities = Capabilities(settings)
    state = State(
        settings=settings,
        clock=clock,
        database=Database(pool, settings.api_request_seconds),
        api_keys=ApiKeys(
            pool,
            clock,
            settings.api_key_pepper.get_secret_value(),
            timedelta(seconds=settings.api_key_cache_seconds),
            timedelta(seconds=settings.api_key_stale_seconds),
        ),
        sessions=LoggedIn(
            Sessions(
                pool,
                clock,
                timedelta(seconds=settings.api_session_access_seconds),
                timedelta(days=settings.api_session_days),
            )
        ),
        tokens=tokens_of(settings, pool, clock),
        code_flow=code_flow_of(settings, clock),
        provider_keyring=keyring_of(settings),
        capabilities=capabilities,
        ends=Ends(settings, clock, capabilities.background),
        rate_limits=settings.rate_limits(),
        live=Live(pool, settings.api_streams, settings.api_streams_each),
        events=_intake(settings, pool, clock),
        replays=Replays(timedelta(seconds=settings.api_idempotency_seconds), settings.api_idempotency_bytes),
        entitlements=Entitlements(pool, settings, clock, timedelta(seconds=settings.api_entitlement_seconds)),
        reservations=Reservations(pool, clock),
    )
    app = make_app(lifespan=_running(state))
    put_state(app, state)
    app.add_middleware(Boundary, body_bytes=settings.api_body_bytes)
    if origins := [origin.strip() for origin in settings.api_cors_origins.split(",") if origin.strip()]:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id"],
        )
    return app


def make_app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None) -> FastAPI:
    """Return the application with all routes and nothing behind them: what the specification is generated from."""
    app = FastAPI(
        title="Tallystick",
        version=installed_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    answering.install(app)
    for router in ROUTERS:
        app.include_router(router, responses=_PROBLEMS)
    app.include_router(CONSOLE)
    return app


def _running(state: State) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what starts and stops the parts that run beside requests."""

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(state.capabilities.close)
            state.events.start()
            stack.push_async_callback(state.events.close)
            stack.enter_context(_beside(state.live.run()))
            stack.enter_context(_beside(watch_provider_keys(state)))
            stack.push_async_callback(state.reservations.close)
            stack.push_async_callback(state.entitlements.close)
            state.entitlements.start()
            yield

    return running


@contextmanager
def _beside(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Let something run beside requests."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


def _intake(settings: Settings, pool: Pool, clock: Clock) -> Intake:
    publisher = Publisher(
        settings.kafka_bootstrap_servers,
        settings.kafka_topic_prefix + USAGE_EVENTS,
        security=librdkafka_security(settings),
        ack_seconds=settings.api_ack_seconds,
        most_waiting=settings.api_events_waiting,
        record_bytes=settings.ingest_record_bytes,
    )
    return Intake(pool, publisher, settings.limits(), clock)


def _operation_id(route: APIRoute) -> str:
    return route.name


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A refusal: problem+json that says what to do.",
        "content": {problems.MEDIA_TYPE: {"schema": problems.SCHEMA}},
    }
}
