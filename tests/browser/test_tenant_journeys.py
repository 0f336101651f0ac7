"""What tenants do in the console, as a person would tell it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from uuid import uuid4

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Person, Site, settled, type_password

PAGES = ["", "usage", "live", "keys", "provider-keys", "credits", "invoices", "alerts"]


def use(site: Site, person: Person, count: int = 1, at: datetime | None = None) -> None:
    """Send usage as a gateway does, of now or of a time."""
    events = [
        {
            "specversion": "1.0", "id": str(uuid4()), "source": "/gateway", "type": "tallystick.usage.v1",
            "time": (at or datetime.now(UTC)).isoformat(), "subject": str(person.subscription_id),
            "data": {"model": "gpt-4o-mini", "provider": "openai", "request_tokens": 100, "response_tokens": 20},
        }
        for _ in range(count)
    ]  # fmt: skip
    request = urllib.request.Request(  # noqa: S310
        f"{site.url}/api/v1/events", json.dumps(events).encode(),
        {"Authorization": f"Bearer {person.key}", "Content-Type": "application/cloudevents-batch+json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        results = json.load(answer)["results"]
    assert {each["status"] for each in results} == {"accepted"}, results


def test_an_event_is_seen_within_three_seconds(page: Page, site: Site, sign_in: Callable[..., Person]) -> None:
    person = sign_in()
    use(site, person)  # the first one of a pipeline may wait for its consumer
    page.goto("/console/live")
    expect(page.get_by_text("connected")).to_be_visible()
    row = page.locator(f"#s-{person.subscription_id} [data-requests]")
    expect(row).to_have_text("1", timeout=20_000)
    begun = monotonic()
    use(site, person)
    expect(row).to_have_text("2", timeout=3_000)
    assert monotonic() - begun < 3
    expect(page.locator("#live-log li").first).to_contain_text("+1 requests")
    settled(page, "live")
    page.goto("/console/usage?range=day")
    expect(page.locator(".chart canvas")).to_be_visible()
    settled(page, "usage")
    page.get_by_label("By", exact=True).select_option("key")
    expect(page).to_have_url(re.compile("group_by=key"))
    expect(page.get_by_role("cell", name="gateway")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    assert "request_count" in download.value.path().read_text()
    page.goto("/console/")
    expect(page.locator(".chart canvas")).to_be_visible()
    settled(page, "overview")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 375, "height": 740})
    page.goto("/console/usage?range=month")
    expect(page.locator(".chart canvas")).to_be_visible()
    settled(page, "phone-usage-used")


def test_a_key_is_made_replaced_and_revoked(page: Page, site: Site, sign_in: Callable[..., Person]) -> None:
    person = sign_in()
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("Name").fill("night shift")
    page.get_by_role("button", name="Make a key").dblclick()
    expect(page.locator("#key")).to_be_visible()
    of_person = "SELECT count(*) FROM api_keys k JOIN subscriptions s ON s.id = k.subscription_id WHERE s.user_id = $1 AND k.name = $2"
    assert site.ask(of_person, person.id, "night shift") == 1
    settled(page, "key-made")
    page.get_by_role("link", name="I have it").click()
    page.get_by_role("row", name="night shift").get_by_role("button", name="Replace").click()
    settled(page, "key-replace")
    page.get_by_role("button", name="Replace the key").click()
    expect(page.locator("#key")).to_be_visible()
    page.get_by_role("link", name="I have it").click()
    page.get_by_role("row", name="night shift").first.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("cannot be taken back")).to_be_visible()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_role("status")).to_contain_text("The key is revoked.")
    settled(page, "keys")


def test_somebody_new_finds_something_to_do_on_every_page(page: Page, sign_in: Callable[..., Person]) -> None:
    sign_in(subscribed=False, name="Newcomer")
    for name in PAGES:
        page.goto(f"/console/{name}")
        expect(page.locator("h1")).to_be_visible()
        settled(page, f"new-{name or 'overview'}")


def test_an_expired_session_leads_to_the_sign_in_and_back(
    page: Page, site: Site, sign_in: Callable[..., Person]
) -> None:
    person = sign_in()
    page.goto("/console/usage?range=week")
    site.ask("DELETE FROM sessions WHERE user_id = $1", person.id)
    page.get_by_label("By", exact=True).select_option("app")  # what htmx asks for leads there, too
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    settled(page, "sign-in")
    type_password(page, person)
    expect(page).to_have_url(re.compile(r"/console/usage\?range=week"))
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_while_the_api_is_slow_the_page_says_so_and_stays_usable(page: Page, sign_in: Callable[..., Person]) -> None:
    sign_in()
    page.goto("/console/usage")
    waiting: list[Route] = []
    page.route(re.compile("group_by=app"), lambda route: waiting.append(route))  # noqa: PLW0108 (Playwright looks at it)
    page.get_by_label("By", exact=True).select_option("app")
    expect(page.locator("form.htmx-request")).to_be_visible()
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()
    waiting[0].continue_()
    expect(page.locator("form.htmx-request")).to_have_count(0)
    expect(page.get_by_label("By", exact=True)).to_have_value("app")


@pytest.mark.parametrize("name", ["محمد الأمين", "<script>document.title='owned'</script>"])
def test_any_name_is_a_name(page: Page, sign_in: Callable[..., Person], name: str) -> None:
    sign_in(name=name)
    page.goto("/console/keys")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Make a key").click()
    page.get_by_role("link", name="I have it").click()
    expect(page.get_by_role("cell", name=name, exact=True)).to_be_visible()
    assert "owned" not in page.title()
    settled(page, "keys-arabic" if name[0] != "<" else "keys-script")


def test_on_a_phone_in_the_dark_by_keyboard(page: Page, sign_in: Callable[..., Person]) -> None:
    page.set_viewport_size({"width": 375, "height": 740})
    page.emulate_media(color_scheme="dark")
    sign_in()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for name in PAGES:
        page.goto(f"/console/{name}")
        settled(page, f"phone-{name or 'overview'}")
    page.goto("/console/keys")
    page.get_by_label("Name").fill("of the phone")
    page.get_by_role("button", name="Make a key").click()
    page.get_by_role("link", name="I have it").click()
    for name in ("Replace of the phone", "Revoke of the phone"):  # within reach, without moving the table aside
        button = page.get_by_role("button", name=name)
        button.scroll_into_view_if_needed()
        expect(button).to_be_in_viewport(ratio=1)
    settled(page, "phone-keys-made")
    page.get_by_role("button", name="Menu").click()
    expect(page.get_by_role("link", name="Overview")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Usage")).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_in_german(page: Page, sign_in: Callable[..., Person]) -> None:
    sign_in()
    page.get_by_label("Language").select_option("de")
    expect(page.get_by_role("heading", name="Übersicht")).to_be_visible()
    settled(page, "german")
