"""`tallystick user`: local users of the API, and what they may do. How an installation gets its first administrator."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from services.cli import operator
from shared.errors import ConfigurationError

app = typer.Typer(
    help="Users of the API: make them, give them roles and passwords, deactivate them. Each change is in the audit trail.",
    no_args_is_help=True,
)

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="E-mail address, or id.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the audit trail.")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input; without it, it is asked for.")
]
Roles = Annotated[list[str], typer.Option(metavar="ROLE", help="admin, finance or service; again for more.")]


@app.command()
def add(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="E-mail address, by which the user logs in.")],
    *,
    role: Roles = [],  # noqa: B006 (typer makes a new one)
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Full name.")] = None,
    password_stdin: FromStdin = False,
    no_password: Annotated[bool, typer.Option("--no-password", help="For who logs in elsewhere, or not at all.")] = False,
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="TALLYSTICK_OIDC_PROVIDER; with --subject.")] = None,
    subject: Annotated[str | None, typer.Option(metavar="TEXT", help="Who they are there: the claim sub of their tokens.")] = None,
    by: By = None,
    why: Why = "",
) -> None:  # fmt: skip
    """Make a user."""
    from services.accounts.users.desk import Wish, add_user  # noqa: PLC0415 (slow to import)

    password = None if no_password or subject else _password(from_stdin=password_stdin)
    wish = Wish(email.strip(), name, role, password, provider, subject)
    id_ = _in_transaction(lambda c: add_user(c, wish), by, why)
    typer.echo(f"user {email} is {id_}, with the roles {', '.join(dict.fromkeys(['user', *role]))}")


@app.command()
def password(email: Email, *, password_stdin: FromStdin = False, by: By = None, why: Why = "") -> None:
    """Give a user a new password, and end their sessions."""
    from services.accounts.users.desk import set_password  # noqa: PLC0415

    new = _password(from_stdin=password_stdin)

    async def change(connection: Any) -> None:
        await set_password(connection, await operator.user_id(connection, email), email, new)

    _in_transaction(change, by, why)
    typer.echo(f"user {email} has a new password, and no session any more")


@app.command()
def roles(
    email: Email,
    *,
    add: Roles = [],  # noqa: B006
    remove: Roles = [],  # noqa: B006
    by: By = None,
    why: Why = "",
) -> None:
    """Show the roles of a user, or change them."""
    from services.accounts.users.desk import change_roles  # noqa: PLC0415

    async def change(connection: Any) -> list[str]:
        return await change_roles(connection, await operator.user_id(connection, email), add=add, remove=remove)

    typer.echo(", ".join(_in_transaction(change, by, why)))


@app.command("list")
def list_(
    *,
    role: Annotated[str | None, typer.Option(metavar="ROLE", help="Those who have it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most users to list.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List users by their address."""
    from services.accounts.users.desk import list_users  # noqa: PLC0415

    users = operator.with_database(lambda c: list_users(c, role=role, limit=limit))
    if as_json:
        typer.echo(json.dumps([asdict(user) for user in users], default=str, indent=2))
        return
    for user in users:
        ways = [*(["password"] if user.has_password else []), *([user.oauth_provider] if user.oauth_id else [])]
        state = f"logs in by {' or '.join(filter(None, ways)) or 'nothing yet'}" if user.is_active else "deactivated"
        typer.echo(f"{operator.harmless(user.email):40} {', '.join(user.roles):20} {state}")
    if not users:
        typer.echo("there are no users")


@app.command()
def deactivate(email: Email, *, by: By = None, why: Why = "") -> None:
    """Let a user and their keys do nothing any more. What they used and owe stays."""
    _set_active(email, active=False, by=by, why=why)


@app.command()
def activate(email: Email, *, by: By = None, why: Why = "") -> None:
    """Let a user who was deactivated, and their keys, do what they could before."""
    _set_active(email, active=True, by=by, why=why)


@app.command()
def link(
    email: Email,
    *,
    provider: Annotated[str, typer.Option(metavar="NAME", help="TALLYSTICK_OIDC_PROVIDER.")],
    subject: Annotated[str, typer.Option(metavar="TEXT", help="Who they are there: the claim sub of their tokens.")],
    by: By = None,
    why: Why = "",
) -> None:
    """Let a user who is there already log in through an identity provider."""
    from services.accounts.users.desk import link_user  # noqa: PLC0415

    async def change(connection: Any) -> None:
        await link_user(connection, await operator.user_id(connection, email), provider, subject)

    _in_transaction(change, by, why)
    typer.echo(f"user {email} is '{operator.harmless(subject)}' at {operator.harmless(provider)}")


def _set_active(email: str, *, active: bool, by: str | None, why: str) -> None:
    from services.accounts.users.desk import set_active  # noqa: PLC0415

    async def change(connection: Any) -> bool:
        return await set_active(connection, await operator.user_id(connection, email), active=active)

    changed = _in_transaction(change, by, why)
    typer.echo(f"user {email} {'is' if changed else 'was already'} {'active' if active else 'deactivated'}")


def _in_transaction(work: Any, by: str | None, why: str) -> Any:
    who = operator.actor(by)

    async def run(connection: Any) -> Any:
        async with connection.transaction():
            await operator.act_as(connection, who, why)
            return await work(connection)

    return operator.with_database(run)


def _password(*, from_stdin: bool) -> str:
    """Return a password from standard input, or from a person who types it twice. Never from an argument: those are seen by everybody here."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise ConfigurationError("nobody is here to type a password: send it to --password-stdin")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
