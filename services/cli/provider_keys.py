"""`tallystick provider-keys`: the keys of users at providers, and the secrets that they are encrypted with."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator
from shared.errors import TallystickError

if TYPE_CHECKING:
    from services.accounts.provider_keys.desk import ProviderKey
    from services.accounts.provider_keys.reencryption import Reencrypted

app = typer.Typer(
    help="Keys of users at providers: see who has which, encrypt them with a new secret. Nobody can print one.",
    no_args_is_help=True,
)


class SomeUnreadable(TallystickError):
    """Some keys were encrypted with a secret that is not set."""


@app.command("list")
def list_(
    *,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Id or e-mail address.")] = None,
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="At this provider.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most keys to list.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List keys at providers, by their last characters, with what was used by them."""
    from services.accounts.provider_keys.desk import list_keys  # noqa: PLC0415 (slow to import)

    async def find(connection: Any) -> list[ProviderKey]:
        user_id = None if user is None else await operator.user_id(connection, user)
        return await list_keys(connection, user_id=user_id, provider=provider, limit=limit)

    keys = operator.with_database(find)
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in keys], default=str, indent=2))
        return
    for key in keys:
        due = f"to be replaced by {key.rotation_due_at:%Y-%m-%d}" if key.rotation_due_at else "never to be replaced"
        used = f"{operator.plural(key.monthly_requests, 'request')} in {key.usage_month:%Y-%m}"
        default = "default, " if key.is_default else ""
        typer.echo(
            f"{key.user_id}  {key.provider:12} {operator.harmless(key.key_name):20} …{key.key_hint}  {default}{used}, {due}"
        )
    if not keys:
        typer.echo("there are no keys at providers")


@app.command("new-secret")
def new_secret(
    secret_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its name, which is stored beside each key, such as 2026-11.")
    ],
) -> None:
    """Make a secret to put first into TALLYSTICK_PROVIDER_KEY_SECRETS."""
    from services.accounts.provider_keys.keyring import new_secret as make  # noqa: PLC0415

    typer.echo(make(secret_id))


@app.command()
def rotate(
    *,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")] = None,
) -> None:  # fmt: skip
    """Encrypt all keys with the first secret of TALLYSTICK_PROVIDER_KEY_SECRETS that others of it have made, while all goes on."""
    from services.accounts.provider_keys.keyring import Keyring  # noqa: PLC0415
    from services.accounts.provider_keys.reencryption import count_by_secret, reencrypt  # noqa: PLC0415
    from services.accounts.settings import AccountSettings  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    keyring, who = Keyring(load(AccountSettings).provider_key_secrets.get_secret_value()), operator.actor(by)

    async def run(connection: Any) -> tuple[Reencrypted, dict[str, int]]:
        return await reencrypt(connection, keyring, actor=who), await count_by_secret(connection)

    result, by_secret = operator.with_database(run)
    typer.echo(f"{operator.plural(result.done, 'key')} encrypted anew with the secret '{keyring.current}'")
    idle = [id_ for id_ in keyring.ids if id_ not in by_secret and id_ != keyring.current]
    if idle:
        typer.echo(f"no key needs the secret {' and '.join(idle)} any more: it can be taken out")
    if result.unreadable:
        missing = ", ".join(sorted(set(by_secret) - set(keyring.ids)))
        raise SomeUnreadable(
            f"{operator.plural(len(result.unreadable), 'key')} cannot be read with the secrets that are set, the first is "
            f"{result.unreadable[0]}: put back {missing or 'the secret that had its id before'}"
        )
