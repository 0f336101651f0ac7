"""What the commands of an operator share: who acts, which ids are meant, and how records of others are shown without harm."""

from __future__ import annotations

import asyncio
import base64
import getpass
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import typer

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncpg

    from services.billing.settings import Settings
    from shared.postgres import Connection, Pool
    from shared.worker import PipelineSettings

T = TypeVar("T")
S = TypeVar("S", bound="PipelineSettings")


def with_database(work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """Run `work` with a connection. Raises `ConfigurationError` if the database has no schema of ours."""
    import asyncpg  # noqa: PLC0415 (slow to import)

    from deploy.local import connect as servers  # noqa: PLC0415
    from shared.postgres import connect  # noqa: PLC0415

    log_to_stderr()

    async def run() -> T:
        connection = await connect(servers.database_url(), application_name="tallystick-operator")
        try:
            return await work(connection)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise schema_missing(error) from None
        finally:
            await connection.close()

    return asyncio.run(run())


def with_billing(work: Callable[[Settings, Pool], Awaitable[T]]) -> T:
    """Run `work` as billing's worker would, with its settings and its role's rights. Raises `ConfigurationError` as `with_database` does."""
    from services.billing.settings import Settings  # noqa: PLC0415

    return with_service(Settings, "tallystick_billing", work)


def with_service(kind: type[S], role: str, work: Callable[[S, Pool], Awaitable[T]]) -> T:
    """Run `work` as a service's worker would, with its settings and the rights of its role."""
    import asyncpg  # noqa: PLC0415

    from deploy.local import connect as servers  # noqa: PLC0415
    from shared.postgres import create_pool, role_to_take  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    log_to_stderr()

    async def run() -> T:
        url = servers.database_url()
        settings = load(kind, database_url=url, kafka_bootstrap_servers="")  # what a command does needs no Kafka
        taken, _ = await role_to_take(url, settings.database_role, role)
        pool = await create_pool(url, max_size=4, application_name="tallystick-operator", role=taken)
        try:
            return await work(settings, pool)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise schema_missing(error) from None
        finally:
            await pool.close()

    return asyncio.run(run())


async def user_id(connection: Connection, named: str) -> UUID:
    """Return the id of a user, by id or e-mail address. Raises `UnknownCustomer`."""
    from services.billing.payments.methods import find_user  # noqa: PLC0415 (slow to import)

    return await find_user(connection, named)


def log_to_stderr() -> None:
    """Keep what services log off standard output, which belongs to what a command prints. A worker has set its logs up already."""
    import structlog  # noqa: PLC0415

    if not structlog.is_configured():
        structlog.configure(logger_factory=lambda *_args: structlog.PrintLogger(sys.stderr))


def schema_missing(error: Exception) -> ConfigurationError:
    """Return the error that a person sees."""
    return ConfigurationError(f"the schema of the database is missing or old ({error}): run 'tallystick migrate'")


def parse_ids(texts: Sequence[str]) -> tuple[UUID, ...]:
    """Return ids, given one by one or with commas. Raises `ConfigurationError` that names what is none."""
    found = []
    for text in (part.strip() for texts_ in texts for part in texts_.split(",")):
        try:
            found.append(UUID(text))
        except ValueError:
            raise ConfigurationError(f"'{text}' is not an id: a UUID is expected") from None
    return tuple(dict.fromkeys(found))


def parse_instant(text: str) -> datetime:
    """Return an instant from ISO 8601; a time without a zone is UTC. Raises `ConfigurationError` that says how one looks."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigurationError(f"'{text}' is not a time: write it like 2026-11-02T00:00Z") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def parse_why(why: str) -> str:
    """Return the reason that a person gives. Raises `ConfigurationError` if there is none."""
    if not why.strip():
        raise ConfigurationError("--why is empty: say why, for those who ask later")
    return why.strip()


def actor(by: str | None) -> str:
    """Return who acts: who was named, else who is logged in here."""
    try:
        return by or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        raise ConfigurationError("nobody is logged in here by name: say who acts with --by NAME") from None


async def act_as(connection: asyncpg.Connection, who: str, why: str = "") -> None:
    """Let the audit trail name who acts in this transaction, and why."""
    from shared.sql import Queries  # noqa: PLC0415 (only commands that change something need it)

    await connection.execute(Queries.load("services.cli")["act_as"], who, why)


def ask(question: str, *, yes: bool) -> None:
    """Ask before something is changed. Raises `ConfigurationError` where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} Repeat with --yes if that is meant")
    typer.confirm(question, abort=True, err=True)


def plural(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def harmless(text: str) -> str:
    """Return a text that others wrote with whatever a terminal would obey made visible."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def readable(content: bytes | None) -> str:
    """Return bytes for a person: as text where they are UTF-8, else as Python would write them."""
    if content is None:
        return "(none)"
    try:
        return harmless(content.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(content)


def document(record: Any) -> dict[str, Any]:
    """Return a record (a dataclass) as JSON-ready values; bytes as text where they are UTF-8, else as base64 under `…_base64`."""
    result: dict[str, Any] = {}
    for name in record.__dataclass_fields__:
        content = getattr(record, name)
        if name == "record_headers":
            result[name] = [
                [header, None if raw is None else base64.b64encode(raw).decode()] for header, raw in content
            ]
        elif isinstance(content, bytes):
            result.update(_bytes(name, content))
        elif isinstance(content, datetime):
            result[name] = content.isoformat()
        else:
            result[name] = str(content) if isinstance(content, UUID) else content
    return result


def _bytes(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def show_record(record: Any) -> None:
    """Print every field of a record on a line of its own; what is empty is left out."""
    for name in record.__dataclass_fields__:
        content = getattr(record, name)
        if name == "record_headers":
            for header, raw in content:
                typer.echo(f"{'header':18} {harmless(header)}: {readable(raw)}")
        elif isinstance(content, bytes) or name == "record_value":
            typer.echo(f"{name.replace('_', ' '):18} {readable(content)}")
        elif content is not None:
            typer.echo(f"{name.replace('_', ' '):18} {harmless(str(content))}")
