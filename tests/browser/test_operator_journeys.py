"""What operators and finance do in the console, as a person would tell it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import UUID

import asyncpg
from playwright.sync_api import Page, expect

from shared.ids import uuid7
from tests.browser.conftest import Person, Site, settled
from tests.browser.test_tenant_journeys import use
from tests.integration.schema_facts import insert, make_subscription

ON_A_PHONE = ("health", "customers", "jobs", "finance/invoices", "finance/runs", "finance/payments")
MODEL = "gpt-4o-mini"


def last_month() -> datetime:
    """Noon of the last day of the month before: late enough to be accepted, early enough to be invoiced."""
    return datetime.now(UTC).replace(day=1, hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


def rated(site: Site, person: Person, count: int) -> None:
    """Wait until so many events of somebody are priced."""
    site.until(
        "SELECT coalesce(sum(requests), 0) FROM rated_usage WHERE subscription_id = $1",
        person.subscription_id,
        wanted=count,
    )


def test_a_customer_is_found_and_suspended_with_a_reason_once(
    page: Page, site: Site, customer: Callable[..., Person], sign_in: Callable[..., Person]
) -> None:
    person = customer(name="محمد <script>document.title='owned'</script>")
    sign_in("admin", subscribed=False)
    page.get_by_role("link", name="Customers", exact=True).click()
    page.get_by_label("Name or e-mail").fill(person.email[:12])
    page.get_by_role("button", name="Show").click()
    settled(page, "operator-customers")
    page.get_by_role("link", name="محمد").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("محمد <script>document.title='owned'</script>")
    assert "owned" not in page.title().replace("document.title='owned'", "")
    settled(page, "operator-customer")
    page.get_by_role("link", name="Suspend", exact=True).click()
    page.get_by_role("button", name="Continue").click()  # the browser itself asks for a reason
    page.get_by_label("Why").fill("looks like <b>abuse</b>")
    settled(page, "operator-suspend")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Gateways refuse its requests within seconds.")).to_be_visible()
    page.get_by_role("button", name="Suspend").dblclick()
    expect(page.get_by_role("status")).to_contain_text("The subscription is suspended.")
    entries = "SELECT count(*) FROM audit_logs WHERE action = 'subscription.suspended' AND resource_id = $1"
    assert site.ask(entries, str(person.subscription_id)) == 1
    page.goto("/console/subscriptions?status=suspended")
    expect(page.get_by_role("row", name=person.email)).to_contain_text("admin")
    settled(page, "operator-subscriptions")
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("row", name="subscription.suspended").first).to_contain_text("ada-")
    settled(page, "operator-audit")


def test_a_refused_event_is_read_and_tried_again(
    page: Page, site: Site, customer: Callable[..., Person], sign_in: Callable[..., Person]
) -> None:
    person = customer()
    record = site.with_database(lambda connection: _refused(connection, person))
    sign_in("admin", subscribed=False)
    page.goto("/console/quarantine")
    settled(page, "operator-quarantine")
    page.get_by_role("table", name="Records").get_by_role("link", name="invalid_value").first.click()
    expect(page.locator("pre")).to_contain_text("mended-by-hand")
    settled(page, "operator-record")
    page.get_by_label("Why").fill("the gateway is mended")
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Replay").dblclick()
    expect(page.get_by_role("status")).to_contain_text("It is accepted.")
    assert site.ask("SELECT count(*) FROM usage_logs WHERE subscription_id = $1", person.subscription_id) == 1
    assert site.ask("SELECT resolution FROM quarantined_events WHERE id = $1", record) == "replayed"


def test_a_held_event_says_whom_it_waits_for_and_is_counted_once_they_are_there(
    page: Page, site: Site, sign_in: Callable[..., Person]
) -> None:
    waits, given_up = uuid7(), uuid7()
    rows = site.with_database(lambda connection: _held(connection, waits, given_up))
    sign_in("admin", subscribed=False)
    page.goto("/console/held")
    expect(page.get_by_role("table", name="Who is waited for")).to_contain_text(str(waits))
    settled(page, "operator-held")
    page.goto(f"/console/held/{rows[1]}")
    page.get_by_label("Why").fill("a test of theirs")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("never counted as usage")).to_be_visible()
    page.get_by_role("button", name="Give it up").click()
    expect(page.get_by_role("status")).to_contain_text("The event is given up")
    settled(page, "operator-held-event")
    site.with_database(lambda connection: make_subscription(connection, id=waits))
    site.until("SELECT count(*) FROM held_events WHERE id = $1 AND attributed_at IS NOT NULL", rows[0], wanted=1)
    page.goto(f"/console/held/{rows[0]}")
    expect(page.get_by_text("attributed").or_(page.get_by_text("counted", exact=True)).first).to_be_visible()


def test_a_month_is_tried_at_another_price_invoiced_once_and_explained_down_to_its_events(
    page: Page, site: Site, customer: Callable[..., Person], sign_in: Callable[..., Person]
) -> None:
    person = customer(name="Grace Hopper")
    use(site, person, 3, at=last_month())
    rated(site, person, 3)
    sign_in("admin", subscribed=False)

    currency = site.ask("SELECT currency FROM subscriptions WHERE id = $1", person.subscription_id)
    page.goto(f"/console/prices/new?model={MODEL}&currency={currency}")
    page.get_by_label("Input per 1,000").fill("a lot")
    page.get_by_role("button", name="Try it on what was used").click()
    expect(page.get_by_label("Input per 1,000")).to_have_value("a lot")
    expect(page.get_by_text("Please write a number")).to_be_visible()
    settled(page, "operator-price")
    prices = site.ask("SELECT count(*) FROM model_prices")
    page.get_by_label("Input per 1,000").fill("2")
    page.get_by_role("button", name="Try it on what was used").click()
    expect(page.get_by_role("heading", name="What this price would change")).to_be_visible()
    settled(page, "operator-price-trial")
    assert site.ask("SELECT count(*) FROM model_prices") == prices, "trying changes nothing"
    page.get_by_role("button", name="Set this price").dblclick()
    expect(page.get_by_role("heading", level=1)).to_have_text(MODEL)
    assert site.ask("SELECT count(*) FROM model_prices") == prices + 1
    settled(page, "operator-price-timeline")

    page.get_by_role("link", name="Invoice runs").click()
    page.get_by_label("Month").fill(f"{last_month():%Y-%m}")
    settled(page, "operator-runs")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("row", name="Grace Hopper")).to_be_visible()
    assert site.ask("SELECT count(*) FROM invoices WHERE user_id = $1", person.id) == 0
    settled(page, "operator-run")
    page.get_by_role("button", name=re.compile("^Issue")).dblclick()
    expect(page.get_by_role("heading", name="Invoice runs")).to_be_visible()
    site.until("SELECT count(*) FROM invoices WHERE user_id = $1 AND number IS NOT NULL", person.id, wanted=1)
    assert site.ask("SELECT count(*) FROM job_runs WHERE job = 'close period'") == 1

    page.get_by_role("link", name="Invoices", exact=True).last.click()
    page.get_by_role("row", name="Grace Hopper").get_by_role("link").first.click()
    settled(page, "operator-invoice")
    page.get_by_role("link", name=re.compile("^Why line")).first.click()
    expect(page.get_by_text("It holds: the events give exactly what was billed.")).to_be_visible()
    settled(page, "operator-explain")
    page.get_by_role("link", name="All its events").click()
    expect(page.get_by_role("cell", name=MODEL)).to_have_count(3)
    settled(page, "operator-events")


def test_the_books_are_proved_and_each_check_says_what_it_means(page: Page, sign_in: Callable[..., Person]) -> None:
    sign_in("admin", subscribed=False)
    page.get_by_role("link", name="Reconciliation").click()
    page.get_by_role("link", name="Prove the books now").click()
    expect(page.get_by_text("Proves that nothing was lost or counted twice")).to_be_visible()
    page.get_by_role("button", name="Run it").dblclick()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    row = page.get_by_role("row", name="reconcile")
    expect(row).to_contain_text("checks:", timeout=30_000)
    settled(page, "operator-jobs")
    page.get_by_role("link", name="Reconciliation").click()
    expect(page.get_by_text("Every offset that ingest passed is a stored event")).to_be_visible()
    settled(page, "operator-reconciliation")
    page.get_by_role("link", name="Health").click()
    expect(page.get_by_role("table", name="What became of every record")).to_be_visible()
    expect(page.get_by_role("table", name="Behind the broker")).to_contain_text("usage.recorded", timeout=20_000)
    settled(page, "operator-health")


def test_a_plan_gets_a_new_version_after_a_look_at_what_it_changes(
    page: Page, site: Site, sign_in: Callable[..., Person]
) -> None:
    sign_in("admin", subscribed=False)
    page.get_by_role("link", name="Plans").click()
    settled(page, "operator-plans")
    page.get_by_role("row", name="basic").get_by_role("link").click()
    expect(page.get_by_role("heading", name="Who is on it")).to_be_visible()
    settled(page, "operator-plan")
    page.get_by_role("link", name="New version").click()
    page.get_by_label("Fee", exact=True).fill("19.50")
    page.get_by_label("Meters").fill("{")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("This is not a list in JSON.")).to_be_visible()
    expect(page.get_by_label("Fee", exact=True)).to_have_value("19.50")
    settled(page, "operator-plan-form")
    page.get_by_label("Meters").fill("")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("→ 19.50")).to_be_visible()
    before = site.ask("SELECT count(*) FROM plan_versions WHERE plan_id = 'basic'")
    settled(page, "operator-plan-preview")
    page.get_by_role("button", name="Publish it").dblclick()
    expect(page.get_by_role("status")).to_contain_text("is published")
    assert site.ask("SELECT count(*) FROM plan_versions WHERE plan_id = 'basic'") == before + 1


def test_ten_thousand_invoices_are_paged_quickly(
    page: Page, site: Site, customer: Callable[..., Person], sign_in: Callable[..., Person]
) -> None:
    many = customer(name="Ten Thousand")
    site.with_database(lambda connection: _invoices(connection, many.id, 10_000))
    sign_in("finance", subscribed=False)
    begun = monotonic()
    page.goto("/console/finance/invoices?status=sent")
    expect(page.get_by_role("row")).to_have_count(51)  # a page, and its head
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_role("link", name="From the beginning")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(51)
    assert monotonic() - begun < 10
    settled(page, "operator-invoices")


def test_pages_are_usable_on_a_phone_in_the_dark(page: Page, sign_in: Callable[..., Person]) -> None:
    page.set_viewport_size({"width": 375, "height": 740})
    page.emulate_media(color_scheme="dark")
    sign_in("admin", subscribed=False)
    for name in ON_A_PHONE:
        page.goto(f"/console/{name}")
        expect(page.locator("h1")).to_be_visible()
        settled(page, f"operator-phone-{name.replace('/', '-')}")


async def _refused(connection: asyncpg.Connection, person: Person) -> UUID:
    """Put an event into quarantine that ingest would accept by now."""
    event = _event(f"mended-by-hand-{uuid7()}", person.subscription_id)
    row = await insert(
        connection, "quarantined_events", id=uuid7(), reason="invalid_value", detail="a field", cluster="main", topic="usage.events",
        partition=0, epoch=7, record_offset=1, record_value=event, batch_id=uuid7(),
    )  # fmt: skip
    return UUID(int=row["id"].int)


async def _held(connection: asyncpg.Connection, *subscriptions: UUID) -> list[UUID]:
    """Hold an event of each of these subscriptions, which are not there."""
    found = []
    for offset, subscription in enumerate(subscriptions):
        event = _event(str(uuid7()), subscription)
        row = await insert(
            connection, "held_events", id=uuid7(), reason="unknown_subscription", subscription_id=subscription, occurred_at=datetime.now(UTC),
            cluster="main", topic="usage.events", partition=0, epoch=8, record_offset=offset, record_value=event, batch_id=uuid7(),
        )  # fmt: skip
        found.append(UUID(int=row["id"].int))
    return found


def _event(id_: str, subscription: UUID | None) -> bytes:
    """A usage event as a gateway publishes it."""
    return json.dumps({
        "specversion": "1.0", "id": id_, "source": "/gateway", "type": "tallystick.usage.v1", "time": datetime.now(UTC).isoformat(),
        "subject": str(subscription), "data": {"model": MODEL, "request_tokens": 1},
    }).encode()  # fmt: skip


async def _invoices(connection: asyncpg.Connection, user: UUID, count: int) -> None:
    """Issued invoices, one for each hour of years ago."""
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # they are there, not made
        await connection.execute(
            """INSERT INTO invoices (user_id, currency, number, status, period_start, period_end, issue_date, due_date, exact_subtotal, subtotal,
                                     total, created_at)
               SELECT $1, 'EUR', 'OLD-' || lpad(n::text, 6, '0'), 'sent', at, at + interval '1 hour', at, at, 12, 12, 12, at
               FROM generate_series(1, $2::integer) n, LATERAL (SELECT '2018-01-01Z'::timestamptz + n * interval '1 hour' AS at) t""",
            user, count,
        )  # fmt: skip
