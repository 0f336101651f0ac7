"""What holds for the console as a whole: how it signs in, what it weighs, that it stands still, and that a keyboard is enough."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import PASSWORD, Person, Site, serious, settled, shifts_of

MOST_BYTES = 300 * 1024


def test_somebody_signs_in_with_their_organisation(page: Page, site: Site) -> None:
    page.goto("/console/keys")
    page.get_by_role("link", name="Sign in with your organisation").click()
    expect(page.get_by_role("heading", name="The organisation")).to_be_visible()
    page.get_by_role("link", name="Continue as Grace").click()
    expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    expect(page.get_by_text("grace", exact=True)).to_be_visible()
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
    assert cookies["tallystick_session"]["httpOnly"]
    assert cookies["tallystick_session"]["sameSite"] == "Lax"
    assert "tallystick" not in page.evaluate("document.cookie")
    page.get_by_role("button", name="Sign out").click()
    page.goto("/console/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    site.provider.claims = {"aud": "another service"}
    page.get_by_role("link", name="Sign in with your organisation").click()
    page.get_by_role("link", name="Continue as Grace").click()
    expect(page.get_by_role("alert")).to_contain_text("not valid for this API")
    site.provider.claims = {}
    settled(page, "sign-in-refused")


def test_the_first_page_is_light(page: Page, site: Site, sign_in: Callable[..., Person]) -> None:
    sign_in()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.clearBrowserCache")
    received: list[int] = []
    asked: list[str] = []
    session.on("Network.loadingFinished", lambda said: received.append(said["encodedDataLength"]))
    session.on("Network.requestWillBeSent", lambda said: asked.append(said["request"]["url"]))
    page.goto("/console/")
    page.wait_for_load_state("networkidle")
    assert len(received) >= 8, "the page, two styles, five scripts"
    assert sum(received) <= MOST_BYTES
    assert [url for url in asked if not url.startswith(site.url)] == [], "nothing is asked of others"


def test_what_jumps_and_what_cannot_be_read_is_found(page: Page) -> None:
    page.goto("/console/sign-in")
    page.wait_for_load_state("load")
    assert sum(value for value, _ in shifts_of(page)) == 0
    page.evaluate(
        "document.querySelector('.sign-in').before(Object.assign(document.createElement('p'), {innerText: 'late'}))"
    )
    page.evaluate("document.querySelector('h1').style.marginTop = '20rem'")
    page.wait_for_function(
        "new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => drawn(true))))"
    )
    assert sum(value for value, _ in shifts_of(page)) > 0.01
    page.evaluate(
        "document.querySelector('label').style.color = '#bbb'; document.querySelector('label').style.background = '#fff'"
    )
    assert any(found.startswith("color-contrast") for found in serious(page))
    page.evaluate("document.querySelector('label[for=f-email]').remove()")
    assert any(found.startswith("label") for found in serious(page))


def test_a_keyboard_is_enough(page: Page, customer: Callable[..., Person]) -> None:
    person = customer()
    page.goto("/console/keys")
    tab_to(page, "f-email")
    page.keyboard.type(person.email)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    tab_to(page, "f-name")
    page.keyboard.type("by hand")
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_be_visible()
    tab_to(page, text="I have it")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    tab_to(page, text="Revoke by hand")
    page.keyboard.press("Enter")
    expect(page.get_by_text("cannot be taken back")).to_be_visible()
    tab_to(page, text="Revoke the key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("The key is revoked.")


def tab_to(page: Page, id_: str = "", text: str = "") -> None:
    """Press Tab until something has the focus; all that has it on the way can be seen to have it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => { const it = document.activeElement, style = getComputedStyle(it);
            return {id: it.id, text: it.textContent.trim(), body: it === document.body,
                    seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1}; }"""
        )
        assert at["seen"] or at["body"], f"no focus is seen on {at}"
        if (id_ and at["id"] == id_) or (text and at["text"] == text):
            return
    raise AssertionError(f"Tab does not lead to {id_ or text}")
