"""The story of a demo: traffic comes, a worker is killed, all is caught up, last month is invoiced, everything is proved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from services.billing.reconciliation import Check, reconcile
from services.cli.checks import show as show_checks
from services.cli.demo import report
from services.cli.demo.closing import close_last_month
from services.cli.demo.display import Bars, Display
from services.cli.demo.finance import Finance
from services.cli.demo.outcome import Outcome
from services.cli.demo.publish import Publisher
from services.cli.demo.record import Record
from services.cli.demo.sending import Sending
from services.cli.demo.verdict import compare, count, stored_usage
from services.cli.demo.watch import POLL_SECONDS, Progress, Show, Watch
from services.cli.demo.world import QUERIES, sign_up
from services.ingest.settings import Settings
from shared.contracts import USAGE_EVENTS
from shared.errors import ServiceUnavailable
from shared.kafka_security import librdkafka_security
from shared.postgres import Connection, Pool

VICTIM: Final = "ingest-0"


class Workers(Protocol):
    """What the story asks of those who run the workers: the demo's supervisor, or containers."""

    def kill(self, name: str) -> int:
        """Kill a worker with SIGKILL, so that it is started again; return its process id."""
        ...

    async def problems(self) -> list[str]:
        """Return what those say that are not ready."""
        ...


@dataclass(slots=True)
class Story:
    """One run against workers that are ready."""

    settings: Settings
    sending: Sending
    workers: Workers
    pool: Pool
    display: Display
    rate: float | None
    documents: Path
    """Where documents are written that the demo shows."""

    async def tell(self) -> Outcome:
        """Play all of it and return what came of it. Raises `TallystickError` when it cannot go on."""
        watch, outcome = Watch(self.pool, self.settings), Outcome()
        await self._caught_up(watch, lambda _: None)  # with what an earlier run left in the topic
        async with self.pool.acquire() as connection:
            before = await count(connection, self.sending.sources)

        self.display.chapter("Traffic")
        await self._send(watch, outcome)

        self.display.chapter("Last month is closed")
        closed = await close_last_month(self.pool, self.sending.now, self.display)
        await self._caught_up(watch, lambda _: None)
        await self._correct(watch, outcome)

        async with self.pool.acquire() as connection:
            added = (await count(connection, self.sending.sources)).since(before)
            sent = await compare(connection, self.sending.sources, self.sending.expected, added, before.stored)
            outcome.enter(added, await stored_usage(connection, self.sending.sources))
            await self._report(connection, outcome, [*sent, closed])
        return outcome

    async def _send(self, watch: Watch, outcome: Outcome) -> None:
        """Publish in a thread of its own, disturb midway, and wait until all services are through."""
        publisher = self._publisher(self.rate)
        midway, loop = asyncio.Event(), asyncio.get_running_loop()
        records = _with_midway(self.sending, lambda: loop.call_soon_threadsafe(midway.set))
        disturbing = asyncio.create_task(self._disturb(midway))
        begun = monotonic()
        publishing = asyncio.create_task(asyncio.to_thread(publisher.publish, records))
        try:
            with self.display.bars(self.sending.totals()) as bars:
                show = _relative_to(await watch.look(), publisher, bars)
                while not publishing.done():
                    show(await watch.look())
                    await asyncio.wait({publishing}, timeout=POLL_SECONDS)
                outcome.sent(publisher.published, await publishing)
                await disturbing
                await self._caught_up(watch, show)
        finally:
            publisher.stop()
            disturbing.cancel()
        outcome.caught_up(monotonic() - begun)
        self.display.say(
            f"caught up: {outcome.published:,} records, {outcome.events_per_second:,.0f}/s from the first sent to the last one rated"
        )

    async def _correct(self, watch: Watch, outcome: Outcome) -> None:
        """When last month is invoiced: send usage of it that comes late, and take a request back."""
        invoice = await self.pool.fetchrow(QUERIES["an_invoice"])
        records = list(self.sending.corrections(invoice["subscription_id"])) if invoice else []
        if not records:
            return
        published = self._publisher()
        await asyncio.to_thread(published.publish, records)
        outcome.published += published.published
        await self._caught_up(watch, lambda _: None)
        self.display.say(
            f"then {len(records) - 1} events of that month arrived late for the customer of {invoice['number']}, and a gateway took one back"
        )

    def _publisher(self, rate: float | None = None) -> Publisher:
        topic = self.settings.kafka_topic_prefix + USAGE_EVENTS
        return Publisher(
            self.settings.kafka_bootstrap_servers, topic, rate=rate, security=librdkafka_security(self.settings)
        )

    async def _caught_up(self, watch: Watch, show: Show) -> None:
        """Wait until all is through; if nothing moves any more, add what the workers say of themselves."""
        try:
            await watch.until_caught_up(show)
        except ServiceUnavailable as stalled:
            said = "; ".join(await self.workers.problems())
            raise ServiceUnavailable(f"{stalled} ({said or 'all of them say that they are ready'})") from None

    async def _disturb(self, midway: asyncio.Event) -> None:
        """When half is sent: kill an ingest worker, and let customers sign up whose usage is already held."""
        await midway.wait()
        pid = self.workers.kill(VICTIM)
        self.display.say(f"half is sent: killed {VICTIM} (process {pid}) with SIGKILL, in the middle of its work")
        if self.sending.latecomers:
            async with self.pool.acquire() as connection:
                await sign_up(connection, self.sending.latecomers)
            self.display.say(
                f"{len(self.sending.latecomers)} customers signed up whose usage was arriving already: what was held becomes theirs"
            )

    async def _report(self, connection: Connection, outcome: Outcome, checks: Sequence[Check]) -> None:
        """Print what a person wants to see, and enter what was found."""
        console, chapter = self.display.console, self.display.chapter
        chapter("Largest summaries")
        await report.show_summaries(console, connection)
        chapter("Refused, and why")
        await report.show_quarantine(console, connection)
        chapter("Suspended, and why")
        outcome.suspended = await report.show_suspended(console, connection)
        outcome.invoices = await connection.fetchval(QUERIES["invoice_count"])
        finance = Finance(connection, self.display, self.sending.now, self.documents)
        proved = [*checks, *await finance.show(outcome), *await reconcile(connection)]
        chapter("The proof")
        show_checks(console, proved)
        outcome.proved(proved)


def _with_midway(sending: Sending, midway: Callable[[], object]) -> Iterator[Record]:
    """Yield the records of `sending`; call `midway` when about half of them are out, or at the end at the latest."""
    records = sending.records()
    yield from islice(records, sending.total // 2)
    midway()
    yield from records


def _relative_to(start: Progress, publisher: Publisher, bars: Bars) -> Show:
    """Return what shows progress since `start`."""

    def show(now: Progress) -> None:
        bars(
            {
                "published": publisher.published,
                "stored": now.stored - start.stored,
                "summarised": now.aggregated - start.aggregated,
                "rated": now.rated - start.rated,
            }
        )

    return show
