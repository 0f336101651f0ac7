"""Whatever a client sends: no answer is a fault of the server, and each is as the published specification says.

Every operation of the API, over a socket, against real servers, as an administrator and as a tenant, with requests that schemathesis makes up
from the specification: valid ones and broken ones. TALLYSTICK_FUZZ_EXAMPLES asks for more of them than a run of all tests has time for.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import schemathesis
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deploy.local import ports
from deploy.migrate import migrate
from deploy.seed import seed
from services.accounts.api_keys.keys import hash_of, new_key, prefix_of
from services.api.app import make_app
from services.cli.supervisor import Supervisor, WorkerSpec
from shared.ids import uuid7
from shared.kafka import create_topics
from shared.postgres import connect
from tests.background import Background

EXAMPLES: Final = int(os.environ.get("TALLYSTICK_FUZZ_EXAMPLES", "6"))
CHECKS: Final[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ENDLESS: Final = "/api/v1/usage/stream"
"""Its answer does not end: nothing waits for it here."""


@schemathesis.serializer("application/x-protobuf")
def _as_bytes(_context: Any, value: Any) -> Any:
    """Send what was drawn as it is: OTLP's binary bodies are bytes."""
    return value if isinstance(value, bytes) else str(value).encode()


schema = schemathesis.openapi.from_dict(make_app().openapi()).exclude(path=ENDLESS)


@dataclass(frozen=True, slots=True)
class RunningApi:
    """A process of the API with seeded customers, and two credentials."""

    url: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def api(postgres: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """The API as a process of its own."""
    with Background(_api(postgres, kafka_bootstrap, tmp_path_factory.mktemp("api"))) as running:
        yield running


@asynccontextmanager
async def _api(postgres: str, kafka_bootstrap: str, logs: Path) -> AsyncIterator[RunningApi]:
    name, prefix, port = f"test_{uuid.uuid4().hex}", f"test-{uuid.uuid4().hex[:12]}.", ports.choose()
    server = await connect(postgres)
    await server.execute(f'CREATE DATABASE "{name}"')
    database = urlsplit(postgres)._replace(path=f"/{name}").geturl()
    await migrate(database)
    await seed(database, test_data=True)
    await create_topics(kafka_bootstrap, partitions=1, prefix=prefix)
    keys = {role: await _key(database, role) for role in ("admin", "user")}
    environ = {
        **os.environ,
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": prefix,
        "TALLYSTICK_PROVIDER_KEY_SECRETS": f"test:{Fernet.generate_key().decode()}",
    }
    spec = WorkerSpec("services.api", 0, ports.choose(), {"TALLYSTICK_API_PORT": str(port)})
    async with Supervisor([spec], environ, logs=logs, tell=print) as supervisor:
        await supervisor.wait_until_ready(60)
        yield RunningApi(f"http://127.0.0.1:{port}", keys)
        assert not supervisor.restarts, "the process has died of a request"
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


async def _key(database: str, role: str) -> str:
    """Make a key of the administrator among the seeded customers, or of one who is none."""
    key, connection = new_key(), await connect(database)
    await connection.execute(
        """INSERT INTO api_keys (id, subscription_id, name, key_hash, key_prefix)
           SELECT $1, s.id, 'fuzzing', $2, $3 FROM subscriptions s JOIN users u ON u.id = s.user_id
           WHERE ('admin' = ANY (u.roles)) = ($4 = 'admin') AND s.status = 'active' ORDER BY s.id LIMIT 1""",
        uuid7(), hash_of(key, ""), prefix_of(key), role,
    )  # fmt: skip
    await connection.close()
    return key


@pytest.mark.parametrize("role", ["admin", "user"])
@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_answered_with_a_fault_or_against_the_specification(
    case: schemathesis.Case[Any], role: str, api: RunningApi
) -> None:
    case.call_and_validate(base_url=api.url, headers={"Authorization": f"Bearer {api.keys[role]}"}, checks=CHECKS)
