"""`tallystick key`: API keys, by which gateways and applications are known to the API."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from services.accounts.api_keys.desk import ApiKey

app = typer.Typer(
    help="API keys: make one for a subscription, replace it, revoke it. A key is shown once, when it is made. Each change is in the audit trail.",
    no_args_is_help=True,
)

By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the audit trail.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the key and nothing else.")]
Id = Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, as `tallystick key list` prints it.")]


@app.command()
def create(
    subscription: Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="Id of the subscription.")],
    *,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="When it ends; never without it.")] = None,
    per_minute: Annotated[int, typer.Option(min=0, help="Requests per minute that it allows; 0: any number.")] = 60,
    per_day: Annotated[int, typer.Option(min=0, help="Requests per UTC day that it allows; 0: any number.")] = 10_000,
    quiet: Quiet = False,
    as_json: AsJson = False,
    by: By = None,
    why: Why = "",
) -> None:  # fmt: skip
    """Make an API key of a subscription, and show it, this once."""
    from services.accounts.api_keys.desk import Wish, create_key  # noqa: PLC0415 (slow to import)

    [id_] = operator.parse_ids([subscription])
    wish = Wish(
        id_, name, None if expires is None else operator.parse_instant(expires), per_minute or None, per_day or None
    )
    made, key = _in_transaction(lambda c, known: create_key(c, wish, **known), by, why)
    _show_new(made, key, quiet=quiet, as_json=as_json)


@app.command("list")
def list_(
    *,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Id or e-mail address.")] = None,
    subscription: Annotated[str | None, typer.Option(metavar="ID", help="Id of a subscription.")] = None,
    ended: Annotated[bool, typer.Option("--all", help="Those that are not valid any more, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most keys to list.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List API keys, the latest first, by the characters that they begin with."""
    from services.accounts.api_keys.desk import list_keys  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    subscription_id = None if subscription is None else operator.parse_ids([subscription])[0]

    async def find(connection: Any) -> list[ApiKey]:
        user_id = None if user is None else await operator.user_id(connection, user)
        return await list_keys(
            connection, now=SystemClock().now(), user_id=user_id, subscription_id=subscription_id, ended=ended, limit=limit
        )  # fmt: skip

    keys = operator.with_database(find)
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in keys], default=str, indent=2))
        return
    for key in keys:
        typer.echo(f"{key.id}  {key.key_prefix}…  {operator.harmless(key.name or '(no name)'):20} {_state(key)}")
    if not keys:
        typer.echo("there are no keys" if ended else "there are no valid keys")


@app.command()
def rotate(
    key: Id,
    *,
    overlap_seconds: Annotated[
        int, typer.Option(min=0, max=30 * 86_400, help="How long the old key stays valid beside the new one.")
    ] = 86_400,
    quiet: Quiet = False,
    as_json: AsJson = False,
    by: By = None,
    why: Why = "",
) -> None:
    """Make a key in the place of another, which stays valid for a while."""
    from datetime import timedelta  # noqa: PLC0415

    from services.accounts.api_keys.desk import rotate_key  # noqa: PLC0415

    [id_] = operator.parse_ids([key])
    overlap = timedelta(seconds=overlap_seconds)
    made, new = _in_transaction(lambda c, known: rotate_key(c, id_, overlap=overlap, **known), by, why)
    _show_new(made, new, quiet=quiet, as_json=as_json)


@app.command()
def revoke(key_id: Id, *, by: By = None, why: Why = "") -> None:
    """Let a key be valid no more. The API forgets it within TALLYSTICK_API_KEY_CACHE_SECONDS."""
    from services.accounts.api_keys.desk import revoke_key  # noqa: PLC0415

    [id_] = operator.parse_ids([key_id])
    key: ApiKey = _in_transaction(lambda c, known: revoke_key(c, id_, now=known["now"]), by, why)
    typer.echo(f"key {id_} {'was revoked already' if key.revoked_at else 'is not valid any more'}")


def _in_transaction(work: Any, by: str | None, why: str) -> Any:
    """Run `work` with a connection in a transaction of the audit trail, and with what keys are made with."""
    from services.accounts.settings import AccountSettings  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    who, pepper = operator.actor(by), load(AccountSettings).api_key_pepper.get_secret_value()

    async def run(connection: Any) -> Any:
        async with connection.transaction():
            await operator.act_as(connection, who, why)
            return await work(connection, {"pepper": pepper, "now": SystemClock().now()})

    return operator.with_database(run)


def _show_new(made: ApiKey, key: str, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"key": key} | asdict(made), default=str, indent=2))
        return
    typer.echo(key)
    if not quiet:
        typer.echo(f"This is shown once: keep it. Its id is {made.id}; {_state(made)}.", err=True)


def _state(key: ApiKey) -> str:
    """Say what a key is worth."""
    if key.revoked_at:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M} UTC"
    limits = [
        f"{limit:,} requests a {unit}"
        for limit, unit in ((key.quota_requests_per_minute, "minute"), (key.quota_requests_per_day, "day"))
        if limit
    ]
    until = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "until it is revoked"
    return f"valid {until}, {' and '.join(limits) or 'without limits'}"
