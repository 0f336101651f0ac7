"""What a gateway uses: records usage, which is on disk when `record` returns and is delivered in the background, and asks what is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, Unpack

from tallystick.delivery import Delivery
from tallystick.entitlements import Entitlement, Entitlements, Hold
from tallystick.errors import ApiAway, DeliveryError, ProducerError
from tallystick.events import Event, Usage, usage_event
from tallystick.spool import Limits, Spool, claim
from tallystick.transports import Rejection, Transport, to_record
from tallystick.transports.http import HttpTransport
from tallystick.transports.kafka import TOPIC, KafkaTransport
from tallystick.web import Web
from tallystick.writer import Writer

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_ASKING_THREADS: Final = 16


class Client:
    """Reports usage, from any thread. Make one for each process, by `over_http` or `over_kafka`, and close it.

    `source` names the gateway: with an event's id it is the event's identity. `spool` is a directory on a local disk, which several processes
    may name: each takes a subdirectory. `tenant` says that the API key is of one subscription, which events need not name then. `on_rejected` is
    told of each event that is refused for good, `on_full` when the disk has no room.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        source: str,
        spool: Path | str | Spool,
        limits: Limits | None = None,
        entitlements: Entitlements | None = None,
        on_rejected: Callable[[Rejection], None] | None = None,
        on_full: Callable[[int], None] | None = None,
        tenant: bool = False,
    ) -> None:
        own = spool if isinstance(spool, Spool) else claim(spool, limits or Limits(), on_full)
        self.source = source
        self.tenant = tenant
        self.spool = own
        self.delivery = Delivery(own, transport, on_rejected=on_rejected, shared_parent=own is not spool)
        self._entitlements = entitlements

    @classmethod
    def over_http(cls, base: str, api_key: str, *, source: str, spool: Path | str | Spool, **options: Any) -> Client:
        """Send to the HTTP API at `base`, such as https://usage.example.com, with an API key. `options` are those of the class."""
        web = Web(base, api_key)
        return cls(HttpTransport(web), source=source, spool=spool, entitlements=Entitlements(web), **options)

    @classmethod
    def over_kafka(
        cls,
        bootstrap_servers: str,
        *,
        source: str,
        spool: Path | str | Spool,
        topic: str = TOPIC,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Client:
        """Send to Kafka. `config` are librdkafka's properties; `entitlements` those of the API, if it is to be asked. Needs confluent-kafka."""
        return cls(KafkaTransport(bootstrap_servers, topic=topic, config=config), source=source, spool=spool, **options)

    def record(
        self,
        *,
        subscription: str | None = None,
        event_id: str | None = None,
        time: datetime | None = None,
        **usage: Unpack[Usage],
    ) -> str:
        """Keep the usage of one request; return the event's id. It is on disk now: neither a crash nor an outage loses it.

        Raises `InvalidEvent` that names the field, `SpoolFull`: it is not kept then.
        """
        event = usage_event(
            self.source, subscription=subscription, event_id=event_id, time=time, nobody=self.tenant, **usage
        )
        self.send(event)
        return event.id

    def send(self, event: Event) -> None:
        """Keep an event that was built before, by `tallystick.events`. Raises `SpoolFull`."""
        self.spool.append(to_record(event))
        self.delivery.notify()

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Return when all that was recorded before is delivered. Raises `DeliveryError` that says why it is not: it stays on disk."""
        self.delivery.flush(timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Deliver what can be in that time, and release the spool: what is left, the next client delivers."""
        with suppress(DeliveryError):  # it stays, and was logged
            self.delivery.flush(timeout_seconds)
        self.delivery.stop()
        self.spool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def entitlement(self, subscription: str, *, api_key_id: str | None = None) -> Entitlement:
        """Ask what a subscription may still use. Raises `ApiAway`, `ApiError`."""
        return self.entitlements.entitlement(subscription, api_key_id=api_key_id)

    def reserve(self, **asked: Any) -> Reservation:
        """Hold room for a request: see `Entitlements.reserve`. Raises `LimitExceeded` if there is none, `ApiAway`, `ApiError`."""
        return Reservation(self, self.entitlements.reserve(**asked))

    @property
    def entitlements(self) -> Entitlements:
        """The API's answers about subscriptions. Raises `ProducerError` for a client that was not given the API's address."""
        if self._entitlements is None:
            raise ProducerError(
                "this client only sends: pass entitlements=Entitlements(Web(base, api_key)) to ask the HTTP API"
            )
        return self._entitlements


class Reservation:
    """Room that is held. Settle it by the usage of the request, or cancel it; leaving the `with` block unsettled cancels it."""

    def __init__(self, client: Client, hold: Hold) -> None:
        self.hold = hold
        self._client = client
        self._over = False

    def settle(self, **usage: Any) -> str:
        """Record the usage of the request, which settles the reservation when it is stored; return the event's id. Raises as `record` does."""
        event_id = self._client.record(
            **{"subscription": self.hold.subscription or None, **usage, "reservation_id": self.hold.id}
        )
        self._over = True
        return event_id

    def cancel(self) -> None:
        """Give the room back. Raises `ApiAway`: it comes back by itself then, when it expires."""
        self._over = True
        self._client.entitlements.cancel(self.hold.id)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:
            with suppress(ApiAway):  # it comes back when it expires
                self.cancel()


class AsyncClient:
    """The same for an event loop, which never waits for the disk or the network: threads do. Wraps a `Client`, and closes it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._writer = Writer()
        self._asking = ThreadPoolExecutor(_ASKING_THREADS, thread_name_prefix="tallystick-asking")

    async def record(
        self,
        *,
        subscription: str | None = None,
        event_id: str | None = None,
        time: datetime | None = None,
        **usage: Unpack[Usage],
    ) -> str:
        """See `Client.record`."""
        event = usage_event(
            self.client.source,
            subscription=subscription,
            event_id=event_id,
            time=time,
            nobody=self.client.tenant,
            **usage,
        )
        await self.send(event)
        return event.id

    async def send(self, event: Event) -> None:
        """See `Client.send`."""
        await self._writer.done(lambda: self.client.send(event))

    async def flush(self, timeout_seconds: float = 30.0) -> None:
        """See `Client.flush`."""
        await asyncio.to_thread(self.client.flush, timeout_seconds)

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """See `Client.close`."""
        await asyncio.to_thread(self._writer.stop)
        await asyncio.to_thread(self.client.close, timeout_seconds)
        self._asking.shutdown(wait=False)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def entitlement(self, subscription: str, *, api_key_id: str | None = None) -> Entitlement:
        """See `Client.entitlement`."""
        return await self.ask(self.client.entitlement, subscription, api_key_id=api_key_id)

    async def reserve(self, **asked: Any) -> AsyncReservation:
        """See `Client.reserve`."""
        return AsyncReservation(self, await self.ask(self.client.entitlements.reserve, **asked))

    async def ask(self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call the API in a thread; return or raise what it does."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, lambda: call(*args, **kwargs))


class AsyncReservation:
    """A `Reservation` for an event loop: `async with await client.reserve(…) as reservation`."""

    def __init__(self, client: AsyncClient, hold: Hold) -> None:
        self.hold = hold
        self._client = client
        self._over = False

    async def settle(self, **usage: Any) -> str:
        """See `Reservation.settle`."""
        event_id = await self._client.record(
            **{"subscription": self.hold.subscription or None, **usage, "reservation_id": self.hold.id}
        )
        self._over = True
        return event_id

    async def cancel(self) -> None:
        """See `Reservation.cancel`."""
        self._over = True
        await self._client.ask(self._client.client.entitlements.cancel, self.hold.id)

    async def __aenter__(self) -> AsyncReservation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:
            with suppress(ApiAway):
                await self.cancel()
