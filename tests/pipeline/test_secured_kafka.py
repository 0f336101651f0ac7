"""The pipeline on a broker with TLS, SCRAM and rights by principal: it works with them, and nobody can do more than it must."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from deploy.local import external
from deploy.local.server import Server
from deploy.seed import seed
from services.cli import main
from services.cli.demo.publish import Publisher
from services.cli.demo.sending import synthetic
from services.cli.demo.watch import Watch
from services.cli.demo.world import read_world, sign_up
from services.cli.supervisor import Supervisor
from shared.contracts import BILLING_EVENTS, SUBSCRIPTION_STATUS, USAGE_EVENTS, USAGE_RECORDED
from shared.errors import ConfigurationError, ServiceUnavailable
from shared.kafka import create_topics
from shared.kafka_security import client_security, librdkafka_security
from shared.postgres import Pool
from shared.settings import KafkaSettings
from shared.startup import check_kafka
from tests.pipeline.running import workers
from tests.pipeline.secured import OPERATOR, READS, SecuredKafka, secured_kafka

EVENTS = 500


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)  # this test needs a broker of its own
        with secured_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
            yield kafka


async def make_topics(kafka: SecuredKafka) -> None:
    operator = kafka.settings(OPERATOR)
    await create_topics(kafka.bootstrap, partitions=2, security=client_security(operator))


async def test_every_service_works_as_a_principal_of_its_own(
    kafka: SecuredKafka, database: str, database_pool: Pool, tmp_path: Path
) -> None:
    await make_topics(kafka)
    await seed(database, test_data=True)
    gateway, operator = kafka.settings("gateway"), kafka.settings(OPERATOR)
    sending = synthetic(await read_world(database), EVENTS, 1, datetime.now(UTC))
    async with database_pool.acquire() as connection:
        await sign_up(connection, sending.latecomers)
    publisher = Publisher(kafka.bootstrap, USAGE_EVENTS, security=librdkafka_security(gateway))
    publisher.publish(sending.records())
    async with AsyncExitStack() as stack:
        for service in READS:
            environ = {
                **os.environ,
                **kafka.environ(service),
                "DATABASE_URL": database,
                "TALLYSTICK_BILLING_CLOSE_PERIODS": "false",
                "PYTHONPATH": str(Path.cwd()),
            }
            supervisor = Supervisor(workers(**{service: 1}), environ, logs=tmp_path, tell=print)
            await stack.enter_async_context(supervisor)
            await supervisor.wait_until_ready(60)
        await Watch(database_pool, operator).until_caught_up(lambda _: None)
    assert await database_pool.fetchval("SELECT count(*) FROM usage_logs") == sending.expected.inserted


@pytest.mark.parametrize(
    ("principal", "topic"),
    [
        ("gateway", USAGE_RECORDED),
        ("gateway", SUBSCRIPTION_STATUS),
        ("ingest", USAGE_EVENTS),
        ("ingest", SUBSCRIPTION_STATUS),
        ("aggregator", USAGE_RECORDED),
        ("billing", USAGE_RECORDED),
        ("billing", SUBSCRIPTION_STATUS),
    ],
)
async def test_a_principal_writes_only_to_its_own_topics(kafka: SecuredKafka, principal: str, topic: str) -> None:
    await make_topics(kafka)
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, **client_security(kafka.settings(principal)), request_timeout_ms=5000
    )
    await producer.start()
    try:
        with pytest.raises(KafkaError) as caught:
            await producer.send_and_wait(topic, b"{}", partition=0)
        assert isinstance(caught.value, TopicAuthorizationFailedError) or "authoriz" in str(caught.value).lower()
    finally:
        await producer.stop()


@pytest.mark.parametrize(
    ("principal", "topic"), [("gateway", USAGE_EVENTS), ("ingest", USAGE_RECORDED), ("billing", BILLING_EVENTS)]
)
async def test_a_principal_reads_only_its_own_topic(kafka: SecuredKafka, principal: str, topic: str) -> None:
    await make_topics(kafka)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, **client_security(kafka.settings(principal)), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        with pytest.raises(TopicAuthorizationFailedError):
            await consumer.getone()
    finally:
        await consumer.stop()


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"kafka_password": "wrong"}, id="wrong password"),
        pytest.param({"kafka_username": "nobody"}, id="unknown user"),
        pytest.param({"kafka_ca_file": ""}, id="a certificate of an unknown authority"),
        pytest.param(
            {"kafka_security_protocol": "PLAINTEXT", "kafka_username": "", "kafka_password": None, "kafka_ca_file": ""},
            id="no encryption",
        ),
    ],
)
async def test_who_cannot_prove_who_it_is_gets_nowhere(kafka: SecuredKafka, changed: dict[str, str]) -> None:
    settings = kafka.settings("ingest", kafka_startup_seconds=0.5, **changed)
    with pytest.raises(ServiceUnavailable, match="Kafka does not answer"):
        await check_kafka(settings, [USAGE_EVENTS])


def test_commands_log_in_with_the_same_settings(
    kafka: SecuredKafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in kafka.environ(OPERATOR).items():
        monkeypatch.setenv(name, value)
    assert main.run(["topics", "--partitions", "2"]) == 0
    assert USAGE_EVENTS in capsys.readouterr().out
    server = Server("kafka", kafka.bootstrap, kafka.bootstrap)
    asyncio.run(external.check([server]))  # what `tallystick demo` begins with
    monkeypatch.setenv("TALLYSTICK_KAFKA_PASSWORD", "wrong")
    with pytest.raises(ServiceUnavailable, match="Kafka does not answer"):
        asyncio.run(external.check([server]))


async def test_a_topic_that_may_not_be_seen_is_named(kafka: SecuredKafka) -> None:
    await make_topics(kafka)
    settings: KafkaSettings = kafka.settings("gateway")
    with pytest.raises(ConfigurationError, match=USAGE_RECORDED):
        await check_kafka(settings, [USAGE_EVENTS, USAGE_RECORDED])
