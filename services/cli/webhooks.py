"""`tallystick webhooks`: endpoints that get events by HTTP, and the log of what was delivered to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from services.cli import operator

if TYPE_CHECKING:
    from services.billing.notices.deliveries import Attempt, Delivery
    from services.billing.notices.endpoints import Endpoint
    from services.billing.notices.signing import Keyring
    from services.billing.settings import Settings
    from shared.postgres import Pool

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Endpoints that get events by HTTP, and what was delivered to them.",
)

Id = Annotated[UUID, typer.Argument(metavar="ID", help="The endpoint, as `list` prints it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; else who is logged in.")]


@app.command("new-key")
def new_key() -> None:
    """Print a new key for TALLYSTICK_BILLING_WEBHOOK_KEYS, with which the secrets of endpoints are encrypted."""
    from services.billing.notices.signing import new_key as make  # noqa: PLC0415

    typer.echo(make())


@app.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to POST events: https://…")],
    *,
    user: Annotated[
        str | None,
        typer.Option(
            "--user", metavar="USER", help="Whose events (id or e-mail address); without it those of everybody."
        ),
    ] = None,
    events: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="TYPE", help="Only this type, such as tallystick.invoice.*; may be repeated."),
    ] = None,
    description: Annotated[str, typer.Option(help="What it is, for people.")] = "",
    by: By = None,
) -> None:
    """Register an endpoint and print its signing secret, which is never shown again.

    The URL is refused if it leads to a private address. It gets events from now on.
    """
    who = operator.actor(by)

    async def work(settings: Settings, pool: Pool) -> tuple[UUID, str]:
        from services.billing.notices import addresses, endpoints  # noqa: PLC0415

        checked = addresses.check_url(
            url,
            allow_http=settings.billing_webhook_allow_http,
            allow_private=settings.billing_webhook_allow_private,
        )
        async with pool.acquire() as connection:
            user_id = await operator.user_id(connection, user) if user else None
            return await endpoints.add(
                connection, _keys(settings), url=checked, user_id=user_id, event_types=events or [], description=description, by=who
            )  # fmt: skip

    id_, secret = operator.with_billing(work)
    typer.echo(f"endpoint {id_}")
    typer.echo(f"secret   {secret}")
    typer.echo("Keep the secret now: it is not shown again.", err=True)


@app.command("list")
def list_(
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Only those of a user: id or e-mail address.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show endpoints: whose, which events, whether they are enabled and how they do."""

    async def work(_settings: Settings, pool: Pool) -> list[Endpoint]:
        from services.billing.notices import endpoints  # noqa: PLC0415

        async with pool.acquire() as connection:
            user_id = await operator.user_id(connection, user) if user else None
            return await endpoints.endpoints(connection, user_id=user_id)

    found = operator.with_billing(work)
    if as_json:
        _print_json(found)
        return
    _table(
        ("id", "whose", "url", "events", "state", "waiting"),
        [
            (str(e.id), str(e.user_id or "everybody"), operator.harmless(e.url), ", ".join(e.event_types) or "all", _state(e), str(e.pending))
            for e in found
        ],
    )  # fmt: skip


@app.command()
def disable(
    id_: Id,
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for those who ask later.")],
    by: By = None,
) -> None:
    """Stop sending to an endpoint. What waits for it waits on; events that come meanwhile are not queued for it."""
    reason = f"{operator.parse_why(why)} (by {operator.actor(by)})"

    async def work(_settings: Settings, pool: Pool) -> bool:
        from services.billing.notices import endpoints  # noqa: PLC0415

        async with pool.acquire() as connection:
            await endpoints.endpoint(connection, id_)
            return await endpoints.disable(connection, id_, at=datetime.now(UTC), reason=reason)

    typer.echo(f"endpoint {id_} " + ("is disabled" if operator.with_billing(work) else "was disabled already"))


@app.command()
def enable(id_: Id) -> None:
    """Send to an endpoint again. What waited for it is sent now."""

    async def work(_settings: Settings, pool: Pool) -> None:
        from services.billing.notices import endpoints  # noqa: PLC0415
        from shared.postgres import transaction  # noqa: PLC0415

        async with transaction(pool) as connection:
            await endpoints.enable(connection, id_, at=datetime.now(UTC))

    operator.with_billing(work)
    typer.echo(f"endpoint {id_} is enabled")


@app.command()
def ping(id_: Id) -> None:
    """Send a test message to an endpoint, whichever events it asked for. A billing worker delivers it within seconds."""

    async def work(_settings: Settings, pool: Pool) -> UUID:
        from services.billing.notices import endpoints  # noqa: PLC0415

        async with pool.acquire() as connection:
            return await endpoints.ping(connection, id_, at=datetime.now(UTC))

    delivery = operator.with_billing(work)
    typer.echo(f"delivery {delivery}; see it with: tallystick webhooks deliveries --delivery {delivery}")


@app.command("rotate-secret")
def rotate_secret(
    id_: Id,
    *,
    overlap_hours: Annotated[
        float,
        typer.Option(min=0, max=720, help="How long deliveries are signed with the old secret as well, in hours."),
    ] = 24.0,
) -> None:
    """Give an endpoint a new secret and print it. For a while deliveries carry signatures of both, so that the receiver can change over."""

    async def work(settings: Settings, pool: Pool) -> str:
        from services.billing.notices import endpoints  # noqa: PLC0415

        async with pool.acquire() as connection:
            overlap = timedelta(hours=overlap_hours)
            return await endpoints.rotate_secret(
                connection, _keys(settings), id_, at=datetime.now(UTC), overlap=overlap
            )

    typer.echo(f"secret   {operator.with_billing(work)}")
    typer.echo(f"Keep it now: it is not shown again. The old one counts for {overlap_hours:g} more hours.", err=True)


@app.command("reencrypt-secrets")
def reencrypt_secrets() -> None:
    """Encrypt all secrets with the first key of TALLYSTICK_BILLING_WEBHOOK_KEYS, so that the keys behind it can be removed."""

    async def work(settings: Settings, pool: Pool) -> int:
        from services.billing.notices import endpoints  # noqa: PLC0415
        from shared.postgres import transaction  # noqa: PLC0415

        async with transaction(pool) as connection:
            return await endpoints.reseal(connection, _keys(settings))

    typer.echo(
        f"the secrets of {operator.plural(operator.with_billing(work), 'endpoint')} are encrypted with the first key"
    )


@app.command()
def deliveries(
    *,
    endpoint: Annotated[
        UUID | None, typer.Option("--endpoint", metavar="ID", help="Only those to an endpoint.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only pending, delivered or failed ones.")
    ] = None,
    delivery: Annotated[
        UUID | None, typer.Option("--delivery", metavar="ID", help="Only this one, with all its attempts.")
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="ID", help="Only those of an event (its webhook-id).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most that are shown, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the delivery log: what was sent where, what was answered, what is tried again when."""
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if status not in {None, "pending", "delivered", "failed"}:
        raise ConfigurationError(f"'{status}' is no status of a delivery: pending, delivered and failed are")

    async def work(_settings: Settings, pool: Pool) -> tuple[list[Delivery], list[Attempt]]:
        from services.billing.notices import deliveries as store  # noqa: PLC0415

        async with pool.acquire() as connection:
            found = await store.deliveries(
                connection, endpoint_id=endpoint, status=status, id_=delivery, message_id=event, limit=limit
            )
            return found, await store.attempts_of(connection, delivery) if delivery else []

    found, attempts = operator.with_billing(work)
    if as_json:
        _print_json([asdict(d) | ({"all_attempts": [asdict(a) for a in attempts]} if delivery else {}) for d in found])
        return
    _table(
        ("id", "event", "type", "status", "attempts", "last answer", "next"),
        [
            (str(d.id), operator.harmless(d.message_id), d.type, d.status, str(d.attempts), _answer(d), _time(d.next_attempt_at))
            for d in found
        ],
    )  # fmt: skip
    for a in attempts:
        took = f"{a.latency_ms:,} ms" if a.latency_ms is not None else "no end"
        typer.echo(
            f"  {a.attempt}. {a.started_at:%Y-%m-%d %H:%M:%S}  {a.outcome or 'under way or lost'}, {took}  {operator.harmless(a.detail or '')}"
        )


@app.command()
def redeliver(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[DELIVERY]…", help="Deliveries, as `deliveries` prints them.")
    ] = None,
    *,
    endpoint: Annotated[
        UUID | None, typer.Option("--endpoint", metavar="ID", help="In place of ids: those to an endpoint …")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="… that were queued since this time, such as 2026-11-21T10:00Z …")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="… the delivered ones too, not only those that were given up.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Send events again, with the ids they had: what was given up, or what a receiver has lost."""
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if bool(ids) == bool(endpoint) or bool(endpoint) != bool(since):
        raise ConfigurationError("say which deliveries: their ids, or --endpoint ID --since TIME")
    chosen, begin = operator.parse_ids(ids or []), operator.parse_instant(since) if since else None
    if endpoint and every:
        operator.ask(f"Send every event again that endpoint {endpoint} was to get since {since}?", yes=yes)

    async def work(_settings: Settings, pool: Pool) -> list[UUID]:
        from services.billing.notices import deliveries as store  # noqa: PLC0415
        from services.billing.notices import endpoints  # noqa: PLC0415

        now = datetime.now(UTC)
        async with pool.acquire() as connection:
            if endpoint is None or begin is None:
                return await store.redeliver(connection, chosen, at=now)
            await endpoints.endpoint(connection, endpoint)
            return await store.redeliver_since(connection, endpoint, begin, only_failed=not every, at=now)

    due = operator.with_billing(work)
    if missing := [str(id_) for id_ in chosen if id_ not in due]:
        raise ConfigurationError(f"there is no delivery {', '.join(missing)}; {len(due)} others are due again")
    typer.echo(f"{len(due):,} {'delivery is' if len(due) == 1 else 'deliveries are'} due again")


def _keys(settings: Settings) -> Keyring:
    from services.billing.notices.signing import keyring  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    keys = keyring(settings)
    if keys is None:
        raise ConfigurationError(
            "TALLYSTICK_BILLING_WEBHOOK_KEYS is not set: put a key there, for the workers too; 'tallystick webhooks new-key' makes one"
        )
    return keys


def _state(endpoint: Endpoint) -> str:
    if not endpoint.enabled:
        return f"disabled: {operator.harmless(endpoint.disabled_reason or '')}"
    if endpoint.failing_since:
        return f"failing since {_time(endpoint.failing_since)} ({operator.plural(endpoint.failures, 'attempt')})"
    return "enabled"


def _answer(delivery: Delivery) -> str:
    if delivery.outcome is None:
        return "" if not delivery.attempts else "under way or lost"
    return operator.harmless(delivery.detail or f"HTTP {delivery.response_status}")


def _time(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table  # noqa: PLC0415 (slow to import)

    from services.cli.checks import console  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _print_json(records: Sequence[Any]) -> None:
    documents = [record if isinstance(record, dict) else asdict(record) for record in records]
    typer.echo(json.dumps(documents, default=lambda v: v.isoformat() if isinstance(v, datetime) else str(v), indent=2))
