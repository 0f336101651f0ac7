"""What a benchmark ran on, and what it used there: the machine, CPU time of processes, bytes of WAL, tables and indexes."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from deploy.local.stack import Stack
from services.ingest.compiled import MODULE


def machine() -> dict[str, Any]:
    """Return what figures depend on: commit, processor, memory, versions, and how busy the machine was."""
    return {
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "changed": bool(_output("git", "status", "--porcelain")),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "compiled": compiled(),
        "load_before": [round(load, 1) for load in os.getloadavg()],
    }


def compiled() -> bool:
    """Tell whether workers have the compiled sweep."""
    return importlib.util.find_spec(MODULE) is not None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpu_seconds(pid: int | None) -> float:
    """Return the CPU time of a process and of those below it that are there now; 0 for none of ours."""
    if pid is None:
        return 0.0
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


@dataclass(frozen=True)
class Used:
    """What was used up to a moment: CPU seconds of workers, Postgres and Kafka, bytes of WAL."""

    workers: float
    postgres: float
    kafka: float
    wal: int

    @classmethod
    async def now(cls, connection: asyncpg.Connection, stack: Stack, workers: list[int]) -> Used:
        """Look at everything at once."""
        pids = {server.name: server.pid for server in stack.servers}
        return cls(
            sum(map(cpu_seconds, workers)),
            cpu_seconds(pids.get("postgres")),
            cpu_seconds(pids.get("kafka")),
            int(await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")),
        )

    def since(self, before: Used, events: int) -> dict[str, float]:
        """Return what an event used since `before`: microseconds of CPU, bytes of WAL."""
        return {
            "worker_us": round((self.workers - before.workers) / events * 1e6, 2),
            "postgres_us": round((self.postgres - before.postgres) / events * 1e6, 2),
            "kafka_us": round((self.kafka - before.kafka) / events * 1e6, 2),
            "wal_bytes": round((self.wal - before.wal) / events, 1),
        }


async def bytes_of(connection: asyncpg.Connection, events: int) -> dict[str, float]:
    """Return the bytes that an event takes in the log, its indexes, and what guards its identity."""
    row = await connection.fetchrow(
        "SELECT sum(pg_relation_size(oid)) FILTER (WHERE relname ~ '^usage_logs_') AS log, "
        "sum(pg_indexes_size(oid)) FILTER (WHERE relname ~ '^usage_logs_') AS log_indexes, "
        "sum(pg_relation_size(oid)) FILTER (WHERE relname ~ '^usage_ids_') AS identities, "
        "sum(pg_indexes_size(oid)) FILTER (WHERE relname ~ '^usage_ids_') AS identities_index "
        "FROM pg_class WHERE relkind = 'r'"
    )
    return {f"{name}_bytes": round(int(size) / events, 1) for name, size in row.items()}
