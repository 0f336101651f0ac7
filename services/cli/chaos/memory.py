"""How much memory the workers take, over the time of a run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from time import monotonic
from typing import Final

from services.cli.chaos.workers import Workers

EVERY_SECONDS: Final = 2.0
MOST_MIB: Final = 250.0


class Memory:
    """Samples the resident memory of every worker; `most` is in MiB, by service, over each tenth of the run in `over_time`."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._samples: list[tuple[float, dict[str, float]]] = []

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            found: dict[str, float] = defaultdict(float)
            for name, pid in self._workers.pids().items():
                service = name.rpartition("-")[0]
                found[service] = max(found[service], resident_mib(pid))
            self._samples.append((monotonic(), dict(found)))
            await asyncio.sleep(EVERY_SECONDS)

    def most(self) -> dict[str, float]:
        """Return the largest worker of each service."""
        return _most([sample for _, sample in self._samples])

    def over_time(self, parts: int = 10) -> list[dict[str, float]]:
        """Return the same for each part of the run."""
        size = max(1, -(-len(self._samples) // parts))
        samples = [sample for _, sample in self._samples]
        return [_most(samples[at : at + size]) for at in range(0, len(samples), size)]


def _most(samples: list[dict[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in samples:
        for service, size in sample.items():
            found[service] = max(found.get(service, 0.0), size)
    return found


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, peaks since its last look included; 0 for one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return float(fields["VmHWM"].split()[0]) / 1_024 if "VmHWM" in fields else 0.0
