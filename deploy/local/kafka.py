"""Apache Kafka itself, one node in KRaft mode, on ports of its own."""

from __future__ import annotations

import asyncio
import base64
import logging
import signal
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from deploy.local import jars, ports, processes
from deploy.local.directory import StackDirectory
from deploy.local.errors import LocalStackError
from deploy.local.java import Java, find_java
from deploy.local.server import Options, Say, Server

_START_SECONDS = 120
_PORT_ATTEMPTS = 3
_JVM_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
_QUICK_JVM_OPTIONS = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_ALWAYS = (
    "-XX:-UsePerfData",  # it would leave a directory in /tmp
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
    "-Dlog4j2.StatusLogger.level=OFF",  # log4j is on the class path but has nothing to say: slf4j-simple writes the log
)
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}

_LISTENERS = ("listeners", "advertised.listeners", "listener.security.protocol.map")
"""Lists to which additional properties add, since they hold ports that are chosen here."""


class Kafka:
    """The broker of one stack directory."""

    def __init__(self, directory: StackDirectory, options: Options, environ: Mapping[str, str]) -> None:
        self._directory = directory
        self._options = options
        self._environ = environ
        self._data = directory.kafka / "data"
        self._properties = directory.kafka / "server.properties"
        self._process: asyncio.subprocess.Process | None = None

    def prepare(self, say: Say) -> None:
        self._java: Java = find_java(self._environ)
        locked = jars.locked_jars()
        version = locked[0].version
        self._description = f"Apache Kafka {version} (KRaft) on {self._java}, data in {self._directory.kafka}"
        say(f"Kafka: {self._description}")
        self._class_path = jars.ensure_jars(
            locked, jars.cache_directory(self._environ), lambda line: say(f"Kafka: {line}")
        )

    async def start(self, say: Say) -> Server:
        self._directory.kafka.mkdir(exist_ok=True)
        remembered = self._directory.read(self._directory.remembered)
        refused: set[int] = set()
        while True:
            taken = frozenset(refused)
            port = ports.choose(remembered.get("kafka_port"), taken=taken)
            controller = ports.choose(remembered.get("kafka_controller_port"), taken=taken | {port})
            try:
                process = await self._start_on(port, controller)
            except LocalStackError:
                refused |= {port, controller}
                if len(refused) >= 2 * _PORT_ATTEMPTS or "Address already in use" not in _tail(
                    self._directory.kafka_log
                ):
                    raise
            else:
                break
        self._directory.remember(kafka_port=port, kafka_controller_port=controller)
        say(f"Kafka: ready on {ports.HOST}:{port}")
        return Server("kafka", f"{ports.HOST}:{port}", self._description, str(self._directory.kafka_log), process.pid)

    async def stop(self, *, gracefully: bool) -> None:
        if self._process is not None:
            await processes.stop(self._process, signal.SIGTERM if gracefully else signal.SIGKILL)

    async def _start_on(self, port: int, controller: int) -> asyncio.subprocess.Process:
        log = self._directory.kafka_log
        self._write_properties(port, controller)
        if not (self._data / "meta.properties").exists():
            format_it = self._java_command(
                _QUICK_JVM_OPTIONS,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                _cluster_id(),
                "-c",
                str(self._properties),
            )
            await processes.run(format_it, log=log, what="formatting Kafka's storage")
        command = self._java_command(_JVM_OPTIONS, "kafka.Kafka", str(self._properties))
        self._process = process = await processes.spawn(command, log=log, when_parent_dies=signal.SIGTERM)

        async def lists_itself() -> bool:
            return await answers_metadata(f"{ports.HOST}:{port}")

        await processes.wait_until(lists_itself, process, seconds=_START_SECONDS, log=log, what="Kafka")
        return process

    def _java_command(self, jvm_options: tuple[str, ...], *arguments: str) -> list[str]:
        class_path = ":".join(map(str, self._class_path))
        return [str(self._java.launcher), *jvm_options, *_ALWAYS, "-cp", class_path, *arguments]

    def _write_properties(self, port: int, controller: int) -> None:
        settings = _SETTINGS | {
            "controller.quorum.voters": f"1@{ports.HOST}:{controller}",
            "listeners": f"PLAINTEXT://{ports.HOST}:{port},CONTROLLER://{ports.HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{ports.HOST}:{port}",
            "log.dirs": str(self._data),
        }
        for name, value in (self._options.kafka_properties or {}).items():
            settings[name] = f"{settings[name]},{value}" if name in _LISTENERS else value
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")


def _cluster_id() -> str:
    """A random id as Kafka writes them: 16 bytes in base64. Not with a dash first, which the storage tool takes for an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


async def answers_metadata(bootstrap: str, security: Mapping[str, Any] | None = None) -> bool:
    """Whether a broker at `bootstrap` answers us, who show what `security` has, and knows at least one live broker."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it reports every refused connection as an error
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=5000, **(security or {}))
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers())
    except (KafkaError, OSError):
        return False
    finally:
        await client.close()


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-20000:]
