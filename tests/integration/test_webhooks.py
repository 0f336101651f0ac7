"""Webhooks: queued with the effect, signed, delivered at least once, tried again in time, and given up in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from standardwebhooks import WebhookVerificationError

from services.billing.events import CREDITS_LOW, INVOICE_ISSUED, INVOICE_PAID, billing_event
from services.billing.notices import deliveries, endpoints
from services.billing.notices.delivering import PER_ENDPOINT
from services.billing.notices.endpoints import EndpointRefused
from services.billing.notices.jobs import forget_deliveries_job
from services.billing.notices.retrying import Policy, delay
from services.billing.notices.signing import Keyring, new_key
from shared.contracts import BILLING_EVENTS, BillingEvent, encode
from shared.ids import uuid7
from shared.jobs import run_due
from shared.outbox import Message, Outbox
from shared.postgres import transaction
from tests.integration.roles import AGGREGATOR, BILLING, with_role
from tests.integration.webhook_facts import DICE, STRANGER, Office, an_office, verify
from tests.webhook_receiver import Answer, Received, receiving

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest_asyncio.fixture
async def office(ingest_database: str) -> AsyncIterator[Office]:
    """Webhooks on a database that is used by one test after the other."""
    async with an_office(ingest_database) as office:
        yield office


# Queued with the effect


async def test_an_event_is_queued_in_the_transaction_of_its_effect(office: Office) -> None:
    """By the trigger queue_webhooks."""
    await office.add("https://example.com/hook")
    with pytest.raises(RuntimeError):
        async with transaction(office.billing) as connection:
            message = billing_event(INVOICE_ISSUED, STRANGER, office.clock.now(), {})
            await Outbox("billing_outbox").enqueue(connection, [message])
            raise RuntimeError
    assert await office.log() == []
    event = await office.announce()
    (line,) = await office.log()
    assert (line.message_id, line.type, line.status) == (event, INVOICE_ISSUED, "pending")
    body = await office.pool.fetchval("SELECT body FROM webhook_messages")
    assert body == await office.pool.fetchval("SELECT value FROM billing_outbox")


async def test_an_endpoint_gets_what_it_asked_for(office: Office) -> None:
    ada, alan = await office.make_user(), await office.make_user()
    of_all, _ = await office.add("https://example.com/all")
    of_ada, _ = await office.add("https://example.com/ada", user=ada)
    invoices, _ = await office.add("https://example.com/invoices", "tallystick.invoice.*", user=alan)
    paid, _ = await office.add("https://example.com/paid", INVOICE_PAID)
    disabled, _ = await office.add("https://example.com/disabled")
    async with office.billing.acquire() as connection:
        await endpoints.disable(connection, disabled, at=office.clock.now(), reason="not yet")

    first = await office.announce(user=ada)
    second = await office.announce(user=alan, kind=CREDITS_LOW)
    third = await office.announce(user=alan, kind=INVOICE_PAID)
    queued = {(line.endpoint_id, line.message_id) for line in await office.log()}
    assert queued == {
        *((of_all, event) for event in (first, second, third)),
        (of_ada, first),
        (invoices, third),
        (paid, third),
    }


async def test_events_of_the_aggregator_go_out_as_well(office: Office) -> None:
    user = await office.make_user()
    endpoint, _ = await office.add("https://example.com/hook", user=user)
    data = {"user_id": str(user), "percent": 80}
    body = BillingEvent("alert-1", "tallystick.quota.threshold.v1", office.clock.now(), str(uuid7()), data)
    async with transaction(with_role(office.pool, AGGREGATOR)) as connection:
        other = Message("subscription.status", b"not even JSON")
        await Outbox("aggregator_outbox").enqueue(connection, [Message(BILLING_EVENTS, encode(body)), other])
    (line,) = await office.log()
    assert (line.endpoint_id, line.message_id) == (endpoint, "alert-1")


async def test_nothing_is_queued_where_nobody_listens(office: Office) -> None:
    await office.announce()
    assert await office.pool.fetchval("SELECT count(*) FROM webhook_messages") == 0


@pytest.mark.parametrize("pattern", ["tallystick.invoices.*", "invoice", "tallystick.invoice.issued.v2"])
async def test_an_event_type_that_there_is_not_is_refused(office: Office, pattern: str) -> None:
    with pytest.raises(EndpointRefused, match="no event is called"):
        await office.add("https://example.com/", pattern)


async def test_an_endpoint_of_nobody_is_refused(office: Office) -> None:
    with pytest.raises(EndpointRefused, match="there is no user"):
        await office.add("https://example.com/", user=uuid7())


# Signed and delivered


async def test_a_delivery_is_signed_and_verified_by_the_official_library(office: Office) -> None:
    async with receiving() as receiver:
        _, secret = await office.add(receiver.url)
        event = await office.announce(data={"number": "INV-2026-000007", "total": "12.30", "customer": "Ö"})
        await office.worker()()
    (request,) = receiver.received
    assert request.headers["webhook-id"] == event
    assert request.headers["content-type"] == "application/json"
    told = verify(secret, request)
    assert (told["id"], told["type"], told["data"]["total"]) == (event, INVOICE_ISSUED, "12.30")
    with pytest.raises(WebhookVerificationError):
        verify(secret, Received(request.path, request.headers, request.body.replace(b"12.30", b"1.30")))
    (line,) = await office.log()
    assert (line.status, line.attempts, line.outcome, line.response_status) == ("delivered", 1, "delivered", 204)
    assert line.latency_ms is not None


async def test_a_failed_delivery_is_tried_again_when_its_time_comes_and_not_before(office: Office) -> None:
    async with receiving(500, 404) as receiver:
        _, secret = await office.add(receiver.url)
        await office.announce()
        work = office.worker()
        for failures in (1, 2):
            await work()
            await work()
            assert len(receiver.received) == failures
            office.clock.at += delay(failures, DICE) - timedelta(seconds=1)
            await work()
            assert len(receiver.received) == failures
            office.clock.at += timedelta(seconds=1)
        await work()
    assert await office.outcomes() == ["refused", "refused", "delivered"]
    assert len(set(receiver.ids)) == 1
    sent_at = [int(request.headers["webhook-timestamp"]) for request in receiver.received]
    assert sent_at == sorted(set(sent_at)), "each attempt says when it was made"
    for request in receiver.received:
        verify(secret, request)


async def test_an_endpoint_that_asks_for_time_gets_it(office: Office) -> None:
    async with receiving("busy 600") as receiver:
        await office.add(receiver.url)
        await office.announce()
        await office.worker()()
    (line,) = await office.log()
    assert line.next_attempt_at == office.clock.at + timedelta(seconds=600)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("close", "unreachable"), ("garbage", "unreachable"), ("hang", "timeout"), (500, "refused"), (304, "redirected")],
)
async def test_whatever_an_endpoint_does_it_is_a_failure_in_the_log(
    office: Office, answer: Answer, outcome: str
) -> None:
    async with receiving(answer) as receiver:
        await office.add(receiver.url)
        await office.announce()
        await office.worker(timeout=timedelta(seconds=0.3))()
        (line,) = await office.log()
        assert (line.status, line.outcome) == ("pending", outcome)
        assert line.detail
        office.clock.at += HOUR
        await office.worker()()
    (line,) = await office.log()
    assert (line.status, line.attempts) == ("delivered", 2)


async def test_nobody_there_is_a_failure_in_the_log(office: Office) -> None:
    async with receiving() as receiver:
        url = receiver.url
    await office.add(url)
    await office.announce()
    await office.worker()()
    assert [line.outcome for line in await office.log()] == ["unreachable"]


async def test_no_transaction_is_open_and_others_go_on_while_an_endpoint_takes_its_time(office: Office) -> None:
    async with receiving(otherwise="hang") as slow, receiving() as quick:
        taking_time, _ = await office.add(slow.url)
        await office.add(quick.url)
        for _ in range(6):
            await office.announce()
        lane = asyncio.create_task(office.worker(concurrency=12)())
        await quick.arrived(6)
        await slow.arrived(PER_ENDPOINT)
        assert slow.most_at_once == PER_ENDPOINT
        under_way = "SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 AND attempts > 0 FOR UPDATE NOWAIT"
        assert len(await office.pool.fetch(under_way, taking_time)) == PER_ENDPOINT, "nothing is locked"
        slow.let_go.set()
        await lane


async def test_endpoints_that_do_not_answer_do_not_keep_others_waiting(office: Office) -> None:
    async with receiving(otherwise="hang") as dead, receiving() as alive:
        for number in range(8):
            await office.add(f"{dead.url}/{number}")
        for _ in range(3):
            await office.announce()
        await office.pool.execute("UPDATE webhook_endpoints SET failures = 1, failing_since = now()")
        healthy, _ = await office.add(alive.url)
        for _ in range(5):
            await office.announce()
        lane = asyncio.create_task(office.worker(concurrency=6)())
        await alive.arrived(5)
        await dead.arrived(6)
        assert len({request.path for request in dead.received}) == len(dead.received), "one at a time of each"
        assert {line.status for line in await office.log(endpoint_id=healthy)} <= {"delivered", "pending"}
        dead.let_go.set()
        dead.otherwise = 200
        await lane
    assert {line.status for line in await office.log(endpoint_id=healthy)} == {"delivered"}


async def test_a_delivery_is_given_up_after_its_last_attempt_and_made_again_on_request(office: Office) -> None:
    async with receiving(otherwise=500) as receiver:
        endpoint, _ = await office.add(receiver.url)
        event = await office.announce()
        work = office.worker(policy=Policy(attempts=3))
        for _ in range(5):
            await work()
            office.clock.at += HOUR
        (line,) = await office.log()
        assert (line.status, line.attempts, line.next_attempt_at) == ("failed", 3, None)

        receiver.otherwise = 200
        async with office.billing.acquire() as connection:
            again = await deliveries.redeliver_since(
                connection, endpoint, office.clock.at - DAY, only_failed=True, at=office.clock.at
            )
        assert again == [line.id]
        await work()
        (line,) = await office.log()
        assert (line.status, line.attempts) == ("delivered", 4)

        async with office.billing.acquire() as connection:  # the receiver has lost it
            assert await deliveries.redeliver(connection, [line.id, uuid7()], at=office.clock.at) == [line.id]
            assert [a.outcome for a in await deliveries.attempts_of(connection, line.id)] == [
                *["refused"] * 3,
                "delivered",
            ]
        await work()
    assert receiver.ids == [event] * 5


async def test_a_test_message_goes_to_one_endpoint_whatever_it_asked_for(office: Office) -> None:
    async with receiving() as receiver, receiving() as other:
        endpoint, secret = await office.add(receiver.url, INVOICE_PAID)
        await office.add(other.url)
        async with office.billing.acquire() as connection:
            delivery = await endpoints.ping(connection, endpoint, at=office.clock.now())
            with pytest.raises(EndpointRefused, match="there is no webhook endpoint"):
                await endpoints.ping(connection, uuid7(), at=office.clock.now())
        await office.worker()()
    (request,) = receiver.received
    assert verify(secret, request)["type"] == "tallystick.webhook.test.v1"
    assert [(line.id, line.status) for line in await office.log()] == [(delivery, "delivered")]
    assert other.received == []


# Secrets


async def test_both_secrets_count_for_a_while_after_a_rotation(office: Office) -> None:
    async with receiving() as receiver:
        endpoint, old = await office.add(receiver.url)
        async with office.billing.acquire() as connection:
            new = await endpoints.rotate_secret(connection, office.keys, endpoint, at=office.clock.now(), overlap=HOUR)
        await office.announce()
        await office.worker()()
        office.clock.at += 2 * HOUR
        await office.announce()
        await office.worker()()
    first, second = receiver.received
    for secret, request in ((old, first), (new, first), (new, second)):
        verify(secret, request)
    with pytest.raises(WebhookVerificationError):
        verify(old, second)


async def test_secrets_are_stored_encrypted_and_can_change_their_key(office: Office) -> None:
    endpoint, secret = await office.add("https://example.com/")
    sealed = await office.pool.fetchval("SELECT encrypted_secret FROM webhook_endpoints")
    assert secret.encode() not in sealed
    new = new_key()
    old_and_new = Keyring(f"{new},{office.key}")
    async with transaction(office.billing) as connection:
        assert await endpoints.reseal(connection, old_and_new) == 1
    assert Keyring(new).open(await office.pool.fetchval("SELECT encrypted_secret FROM webhook_endpoints")) == secret
    assert endpoint


async def test_a_secret_whose_key_is_gone_is_said_and_disables_nothing(office: Office) -> None:
    async with receiving() as receiver:
        await office.add(receiver.url)
        await office.announce()
        work = office.worker(keys=Keyring(new_key()), policy=Policy(disable_after=timedelta(0)))
        for _ in range(7):
            await work()
            office.clock.at += DAY
        (line,) = await office.log()
        assert (line.status, line.outcome) == ("pending", "unsigned")
        assert "TALLYSTICK_BILLING_WEBHOOK_KEYS" in (line.detail or "")
        assert receiver.received == []
        await office.worker()()
    assert [line.status for line in await office.log()] == ["delivered"]


# Endpoints that fail for long


async def test_an_endpoint_that_fails_for_long_is_disabled_and_its_user_told_once(office: Office) -> None:
    user = await office.make_user()
    async with receiving(otherwise=503) as receiver:
        endpoint, _ = await office.add(receiver.url, user=user)
        watcher, _ = await office.add("https://example.com/all", "tallystick.webhook.*")
        await office.announce(user=user)
        work = office.worker(policy=Policy(attempts=50))
        for _ in range(6):
            await work()
            office.clock.at += 8 * HOUR
        made = len(receiver.received)
        assert await _disabled(office) == {endpoint: f"{made} attempts since"}
        alerts = await office.pool.fetch("SELECT user_id, type, message FROM billing_alerts")
        assert [(a["user_id"], a["type"]) for a in alerts] == [(user, "webhook_disabled")]
        assert "Enable it again when it works" in alerts[0]["message"]
        assert [line.type for line in await office.log(endpoint_id=watcher)] == ["tallystick.webhook.disabled.v1"]

        receiver.otherwise = 200
        await office.announce(user=user)  # not queued: nobody listens
        await work()
        assert len(receiver.received) == made
        async with transaction(office.billing) as connection:
            await endpoints.enable(connection, endpoint, at=office.clock.now())
        await work()
    assert [line.status for line in await office.log(endpoint_id=endpoint)] == ["delivered"]
    assert await _disabled(office) == {}


async def _disabled(office: Office) -> dict[object, str]:
    rows = await office.pool.fetch("SELECT id, disabled_reason FROM webhook_endpoints WHERE NOT enabled")
    return {row["id"]: " ".join(row["disabled_reason"].split()[:3]) for row in rows}


async def test_a_success_forgets_the_failures_before_it(office: Office) -> None:
    async with receiving(500, 500, 200, otherwise=500) as receiver:
        await office.add(receiver.url)
        await office.announce()
        work = office.worker(policy=Policy(disable_after=3 * HOUR))
        for _ in range(3):
            await work()
            office.clock.at += HOUR
        assert await office.pool.fetchval("SELECT failures FROM webhook_endpoints WHERE failing_since IS NULL") == 0
        await office.announce()
        await work()
    assert await office.pool.fetchval("SELECT enabled AND failures = 1 FROM webhook_endpoints")


async def test_an_endpoint_that_says_it_is_gone_is_disabled_at_once(office: Office) -> None:
    async with receiving(410) as receiver:
        await office.add(receiver.url)
        await office.announce()
        await office.worker()()
    assert list((await _disabled(office)).values()) == ["it answered 410"]


# The log is not kept for ever


async def test_of_a_user_who_is_erased_nothing_is_kept(office: Office) -> None:
    """By the trigger erase_notices."""
    ada, alan = await office.make_user(), await office.make_user()
    everybody, _ = await office.add("https://example.com/all")
    for user in (ada, alan):
        await office.add("https://example.com/hook", user=user)
        await office.announce(user=user)
        await office.pool.execute("INSERT INTO alert_settings (user_id, kind) VALUES ($1, 'spend')", user)
    await office.pool.execute("SELECT anonymise_user($1)", ada)
    kept = {"webhook_endpoints": [alan, None], "webhook_messages": [alan], "alert_settings": [alan]}
    for table, users in kept.items():
        rows = await office.pool.fetch(f"SELECT user_id FROM {table} ORDER BY user_id")  # noqa: S608
        assert [row["user_id"] for row in rows] == users
    assert len(await office.log(endpoint_id=everybody)) == 1


async def test_what_is_old_is_forgotten_unless_it_waits_to_be_delivered(office: Office) -> None:
    async with receiving(200, 500) as receiver:
        await office.add(receiver.url)
        await office.announce()
        await office.worker(concurrency=1)()
        waiting = await office.announce()
        await office.worker()()
    office.clock.at += 31 * DAY
    job = forget_deliveries_job(with_role(office.pool, BILLING), office.clock, keep=30 * DAY)
    assert await run_due(office.billing, office.clock, job, worker="0") == 1
    assert await office.pool.fetchval("SELECT result ->> 'forgotten' FROM job_runs") == "1"
    assert [line.message_id for line in await office.log()] == [waiting]
