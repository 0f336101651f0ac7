"""A server on which who migrates may not make roles, or may but is no superuser: as managed services are. It needs a server of its own,
since roles belong to the server and the session's is full of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from deploy.local.postgres_programs import version_of
from deploy.local.stack import running_stack
from deploy.migrate import migrate
from deploy.seed import seed
from shared.postgres import role_to_take
from tests.integration.roles import AGGREGATOR, API, BILLING, INGEST, OPERATOR, READONLY, TENANT
from tests.integration.schema_facts import make_invoice
from tests.integration.test_postgres_versions import PROGRAMS

ROLES = (AGGREGATOR, API, BILLING, INGEST, OPERATOR, READONLY, TENANT)


@pytest.fixture(params=PROGRAMS, ids=lambda programs: version_of(programs).partition(".")[0])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server without roles of ours."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("TALLYSTICK_POSTGRES_BIN", str(request.param))
    with running_stack(servers=("postgres",), durable=False) as running:
        yield running.stack.database_url


@pytest_asyncio.fixture
async def administrator(server: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server)
    yield connection
    await connection.close()


async def make_owner(administrator: asyncpg.Connection, server: str, name: str, option: str = "") -> str:
    """Make a login with a database of its own; return its URL."""
    await administrator.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' {option}")
    await administrator.execute(f"CREATE DATABASE {name} OWNER {name}")
    parts = urlsplit(server)
    return parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}", path=f"/{name}").geturl()


async def taken(url: str) -> list[str | None]:
    """Return which of the roles a worker that logs in with this URL would take."""
    return [(await role_to_take(url, "", role))[0] for role in ROLES]


async def test_who_may_make_roles_makes_them_and_acts_as_them(administrator: asyncpg.Connection, server: str) -> None:
    url = await make_owner(administrator, server, "maker", "CREATEROLE")
    said: list[str] = []
    await migrate(url, say=said.append)
    assert [line for line in said if "warning" in line] == []
    assert await taken(url) == list(ROLES)


async def test_an_owner_who_is_no_superuser_works_under_forced_row_level_security(
    administrator: asyncpg.Connection, server: str
) -> None:
    url = await make_owner(administrator, server, "owner", "CREATEROLE")
    await migrate(url)
    await seed(url, test_data=True)
    owner = await asyncpg.connect(url)
    try:
        ada, alan = [row["user_id"] for row in await owner.fetch("SELECT DISTINCT user_id FROM subscriptions LIMIT 2")]
        await owner.execute("UPDATE users SET full_name = 'changed' WHERE id = $1", ada)
        invoice = await make_invoice(owner, ada)
        async with owner.transaction():  # a function that runs as the owner, a trigger that audits, a foreign key
            await owner.execute("SET LOCAL ROLE tallystick_billing")
            await owner.execute("SELECT add_user_credits($1::uuid, 10)", ada)
            await owner.execute("UPDATE invoices SET metadata = '{}' WHERE id = $1", invoice)
        for tenant, expected in ((ada, 1), (alan, 0)):
            async with owner.transaction():
                await owner.execute("SELECT set_config('role', $1, true)", TENANT)
                await owner.execute("SELECT set_config('app.current_user_id', $1, true)", str(tenant))
                assert await owner.fetchval("SELECT count(*) FROM invoices") == expected
                assert await owner.fetchval("SELECT count(DISTINCT user_id) FROM subscriptions") == 1
        # Without its policy the owner is filtered like everybody: the security is forced on it.
        await owner.execute("DROP POLICY service_roles ON invoices")
        with pytest.raises(asyncpg.PostgresError, match="it is not said for whom to read"):
            await owner.fetchval("SELECT count(*) FROM invoices")
        await owner.execute("SELECT apply_role_rights()")
        assert await owner.fetchval("SELECT count(*) FROM invoices") == 1
    finally:
        await owner.close()


async def test_who_may_not_is_told_what_to_ask_for_and_gets_it_later(
    administrator: asyncpg.Connection, server: str
) -> None:
    url = await make_owner(administrator, server, "plain")
    said: list[str] = []
    await migrate(url, say=said.append)
    warnings = [line for line in said if line.startswith("warning: ")]
    assert len(warnings) == len(ROLES)
    assert "As an administrator: CREATE ROLE tallystick_ingest; GRANT tallystick_ingest TO plain;" in " ".join(warnings)
    assert await taken(url) == [None] * len(ROLES)

    for role in ROLES:
        await administrator.execute(f"CREATE ROLE {role}")
        await administrator.execute(f"GRANT {role} TO plain")
    assert await taken(url) == [None] * len(ROLES), "they have no rights yet"
    said.clear()
    assert await migrate(url, say=said.append) == []
    assert said == []
    assert await taken(url) == list(ROLES)


async def test_a_login_of_the_service_needs_no_word_about_roles(administrator: asyncpg.Connection, server: str) -> None:
    await migrate(server)
    await administrator.execute(f"CREATE ROLE ingest_login LOGIN PASSWORD 'secret' IN ROLE {INGEST}")
    parts = urlsplit(server)
    login = await asyncpg.connect(parts._replace(netloc=f"ingest_login:secret@{parts.hostname}:{parts.port}").geturl())
    try:
        await login.execute("SELECT ensure_usage_partition(now())")
        assert await login.fetchval("SELECT count(*) FROM usage_logs") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute("SELECT FROM invoices")
    finally:
        await login.close()


async def test_databases_that_are_migrated_at_once_share_the_roles(
    administrator: asyncpg.Connection, server: str
) -> None:
    parts = urlsplit(server)
    urls = [parts._replace(path=f"/side_{number}").geturl() for number in range(4)]
    for number in range(len(urls)):
        await administrator.execute(f"CREATE DATABASE side_{number}")
    await asyncio.gather(*(migrate(url) for url in urls))
    assert [await taken(url) for url in urls] == [list(ROLES)] * len(urls)
