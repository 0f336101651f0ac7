"""Bring a database's schema up to date: numbered SQL files, forward only, each in a transaction of its own.

A file is `NNNN_name.sql` in `deploy/migrations` and begins with the line `-- migrate:up`, as dbmate writes it. A file that has been applied
must not change: what it made is somewhere already, and a correction is a new file.

Workers run on meanwhile. A statement that needs a lock which somebody holds makes everybody wait who comes after it: so it gives up after two
seconds, lets the others through, and the file is tried again. `-- migrate:up transaction:false` is for what cannot be in a transaction, such as
an index that is built concurrently: its statements have to bear being repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg

from deploy import sql_script
from shared.errors import TallystickError
from shared.postgres import connect
from shared.sql import Queries

DIRECTORY = Path(__file__).with_name("migrations")
_SQL = Queries.load("deploy", "migrate.sql")
_FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_MARK = re.compile(
    r"\A(?:\s*|--(?! migrate:)[^\n]*\n)*-- migrate:up(?P<alone> transaction:false)?[ \t]*$", re.MULTILINE
)
_LOCK_KEY = 0x7A11_1571_C4_00  # any number that no other program locks
_LOCK_SECONDS = 120
_LOCK_POLL_SECONDS = 0.1
_ATTEMPTS = 20
"""Of one file, while others hold locks that it needs."""
_PAUSE_SECONDS = (0.5, 5.0)
"""Between two attempts: the first pause and the longest one."""
_IN_THE_WAY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


class MigrationError(TallystickError):
    """A migration cannot be read, does not fit the database's history, or failed. Names the file and, if it can, the line."""


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """One file: its number, its name, its text and the SHA-256 of that."""

    version: str
    name: str
    script: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.script.encode()).hexdigest()

    @property
    def in_transaction(self) -> bool:
        """Whether nothing of it stays if it fails."""
        mark = _MARK.match(self.script)
        return not (mark and mark["alone"])

    @property
    def file(self) -> str:
        return f"{self.version}_{self.name}.sql"


def read_migrations(directory: Path = DIRECTORY) -> list[Migration]:
    """All migrations in the order of their numbers. Raises `MigrationError` for a name or a beginning that does not follow the rules."""
    found: dict[str, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path} is not named like 0001_what_it_does.sql: rename it")
        script = path.read_text(encoding="utf-8")
        if not _MARK.match(script):
            raise MigrationError(f"{path} does not begin with the line '-- migrate:up'")
        migration = Migration(match["version"], match["name"], script)
        if other := found.get(migration.version):
            raise MigrationError(f"{other.file} and {migration.file} have the same number: renumber the newer one")
        found[migration.version] = migration
    return list(found.values())


async def migrate(
    dsn: str, *, directory: Path = DIRECTORY, say: Callable[[str], None] | None = None
) -> list[Migration]:
    """Apply what is pending and return it, in order. Two at once are safe: the second waits and finds nothing to do.

    Raises `MigrationError`; the files before the failing one stay applied, of the failing one nothing does. `ServiceUnavailable` when the
    database does not answer.
    """
    migrations = read_migrations(directory)
    async with migrator(dsn) as connection:
        return await _apply_pending(connection, migrations, say)


async def reset(dsn: str, *, directory: Path = DIRECTORY, say: Callable[[str], None] | None = None) -> list[Migration]:
    """Drop everything in the schema `public`, with all its data, and apply all migrations. Raises as `migrate` does."""
    migrations = read_migrations(directory)
    async with migrator(dsn) as connection:
        await drop_everything(connection)
        return await _apply_pending(connection, migrations, say)


async def drop_everything(connection: asyncpg.Connection) -> None:
    """Empty the schema `public`. Raises `MigrationError` when something uses it."""
    try:
        async with connection.transaction():
            for name in ("drop_everything", "create_schema", "open_schema"):
                await connection.execute(_SQL[name])
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"the schema cannot be dropped ({error}): stop what uses the database, then try again"
        ) from error


async def pending(dsn: str, *, directory: Path = DIRECTORY) -> list[Migration]:
    """What `migrate` would apply; changes nothing. Raises as `migrate` does."""
    connection = await connect(dsn, application_name="tallystick migrate")
    try:
        return _not_applied(read_migrations(directory), await _history(connection))
    finally:
        await connection.close()


@asynccontextmanager
async def migrator(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that holds the migrators' lock: nobody else changes the schema meanwhile. Raises `MigrationError` if somebody does."""
    connection = await connect(dsn, application_name="tallystick migrate")
    try:
        deadline = asyncio.get_running_loop().time() + _LOCK_SECONDS
        while not await connection.fetchval(_SQL["try_lock"], _LOCK_KEY):
            if asyncio.get_running_loop().time() > deadline:
                raise MigrationError(
                    f"another migration has been running for more than {_LOCK_SECONDS} s: wait for it, or end it"
                )
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        await connection.execute(_SQL["limit_lock_waits"])
        yield connection
        await connection.execute(_SQL["unlock"], _LOCK_KEY)
    finally:
        await connection.close()


async def _apply_pending(
    connection: asyncpg.Connection, migrations: Sequence[Migration], say: Callable[[str], None] | None
) -> list[Migration]:
    to_apply = _not_applied(migrations, await _history(connection))
    if say:
        connection.add_log_listener(_warnings_to(say))
    await connection.execute(_SQL["create_history"])
    for migration in to_apply:
        if say:
            say(f"applying {migration.file}")
        if migration.in_transaction:
            await _past_locks(connection, partial(_apply, connection, migration), migration.file, say)
        else:
            await _apply_alone(connection, migration)
    await _past_locks(connection, partial(_apply_role_rights, connection, again=bool(to_apply)), "granting rights", say)
    return to_apply


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    async with connection.transaction():
        await _run(connection, migration)
        await connection.execute(_SQL["record"], migration.version, migration.name, migration.checksum)


async def _apply_alone(connection: asyncpg.Connection, migration: Migration) -> None:
    """Apply what cannot be in a transaction. Building an index concurrently waits for others' transactions, and makes nobody wait."""
    await connection.execute(_SQL["wait_for_locks"])
    await _run(connection, migration)
    await connection.execute(_SQL["record"], migration.version, migration.name, migration.checksum)
    await connection.execute(_SQL["limit_lock_waits"])


async def _past_locks(
    connection: asyncpg.Connection, work: Callable[[], Awaitable[None]], what: str, say: Callable[[str], None] | None
) -> None:
    """Do work that needs locks, again and again while others hold them. Raises `MigrationError` that names the oldest transaction."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await work()
        except _IN_THE_WAY as error:
            oldest = await connection.fetchval(_SQL["oldest_transaction"]) or "none is open now"
            if attempt == _ATTEMPTS:
                raise MigrationError(
                    f"{what}: others held a lock that it needs, {attempt} times ({error}); nothing of it was applied. "
                    f"The oldest transaction: {oldest}. Let it end, or end it, and migrate again"
                ) from error
            if say:
                say(f"{what} waits for a lock; the oldest transaction: {oldest}")
            await asyncio.sleep(min(_PAUSE_SECONDS[0] * 2 ** (attempt - 1), _PAUSE_SECONDS[1]))
        else:
            return


async def _apply_role_rights(connection: asyncpg.Connection, *, again: bool) -> None:
    """Grant the service roles their rights: for new relations if something was applied, else for roles that have none yet."""
    if await connection.fetchval(_SQL["has_role_rights"]) and (
        again or await connection.fetchval(_SQL["roles_without_rights"])
    ):
        await connection.execute(_SQL["apply_role_rights"])


def _warnings_to(say: Callable[[str], None]) -> Callable[[asyncpg.Connection, asyncpg.PostgresLogMessage], None]:
    """Return a listener that tells a person, once each, what the server warns of; notices are for those who read its log."""
    said: set[str] = set()

    def listen(_: asyncpg.Connection, message: asyncpg.PostgresLogMessage) -> None:
        text = " – ".join(part for part in (message.message, message.hint) if part)
        if message.severity_en == "WARNING" and text not in said:
            said.add(text)
            say(f"warning: {text}")

    return listen


async def _history(connection: asyncpg.Connection) -> dict[str, asyncpg.Record]:
    """The applied migrations by version."""
    if not await connection.fetchval(_SQL["has_history"]):
        return {}
    return {row["version"]: row for row in await connection.fetch(_SQL["history"])}


def _not_applied(migrations: Sequence[Migration], history: dict[str, asyncpg.Record]) -> list[Migration]:
    """The migrations that are still to come. Raises `MigrationError` when the history is not a beginning of them."""
    remedy = "restore the file, or start afresh with `tallystick migrate --reset` if the data may go"
    known = {migration.version: migration for migration in migrations}
    for version, row in history.items():
        if version not in known:
            raise MigrationError(
                f"the database has {version}_{row['name']}.sql, which is not among the files here: use the newer release that has it"
            )
        if known[version].checksum != row["checksum"]:
            raise MigrationError(f"{known[version].file} has changed since it was applied to this database: {remedy}")
    newest = max(history, default="")
    left = [migration for migration in migrations if migration.version not in history]
    if left and left[0].version < newest:
        raise MigrationError(f"{left[0].file} was never applied although {newest} was: number it after {newest}")
    return left


async def _run(connection: asyncpg.Connection, migration: Migration) -> None:
    """Execute the statements of a migration one by one.

    Raises `MigrationError` with the line of the one that fails, and what Postgres says of a lock that others hold.
    """
    try:
        statements = list(sql_script.split(migration.script))
    except ValueError as error:
        raise MigrationError(f"{migration.file}: {error}") from error
    left = "nothing of it was applied" if migration.in_transaction else "what is before it in the file has been done"
    for statement in statements:
        try:
            await connection.execute(statement.text)
        except _IN_THE_WAY:
            raise
        except asyncpg.PostgresError as error:
            position = int(error.position) if error.position else None
            raise MigrationError(
                f"{migration.file}, line {statement.line_at(position)}: {_explain(error)}; {left}"
            ) from error


def _explain(error: asyncpg.PostgresError) -> str:
    parts = [str(error.args[0]), getattr(error, "detail", None), getattr(error, "hint", None)]
    return " – ".join(part for part in parts if part)
