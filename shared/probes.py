"""What a worker answers over HTTP: /metrics, /livez and /readyz.

*Live*: a restart would not help. The event loop runs, records that wait are being applied, the client is in its group. *Ready*:
the database can be written, and all partitions that the worker was given run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from faststream.asgi import AsgiResponse, get
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.consumer import ExactlyOnceConsumer
from shared.postgres import Pool


def routes(
    dead: Callable[[], Awaitable[str | None]], consumers: Sequence[ExactlyOnceConsumer], pool: Pool
) -> list[tuple[str, Any]]:
    """Return the paths and what answers them. `dead` says why a restart would help, or None."""

    @get
    async def metrics(_scope: Any) -> AsgiResponse:
        return AsgiResponse(generate_latest(), 200, {"content-type": CONTENT_TYPE_LATEST})

    @get
    async def livez(_scope: Any) -> AsgiResponse:
        return _verdict(await dead())

    @get
    async def readyz(_scope: Any) -> AsgiResponse:
        reasons = [reason for reason in (await not_writable(pool), *(c.not_ready for c in consumers)) if reason]
        return _verdict("; ".join(reasons) or None)

    return [("/metrics", metrics), ("/livez", livez), ("/readyz", readyz)]


def _verdict(problem: str | None) -> AsgiResponse:
    return AsgiResponse(
        (problem or "ok").encode() + b"\n", 503 if problem else 200, {"content-type": "text/plain; charset=utf-8"}
    )


async def not_writable(pool: Pool) -> str | None:
    """Say why the database cannot be written, or None."""
    try:
        read_only = await pool.fetchval("SELECT current_setting('transaction_read_only')", timeout=3)
    except Exception as error:
        return f"database: {error!r}"
    return "database is read-only" if read_only == "on" else None
