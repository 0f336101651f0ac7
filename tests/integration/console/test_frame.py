"""What all pages have in common: who gets in, what may be loaded, which forms are taken, how errors look."""

from __future__ import annotations

import re
from datetime import timedelta

import httpx
import pytest

from services.api.console.page_route import safe_path
from shared.clock import FixedClock
from tests.integration.console.conftest import PASSWORD, SignIn, csrf_of


async def test_who_is_not_signed_in_is_led_to_the_sign_in_and_back(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    led = await client.get("/console/?range=month")
    assert led.status_code == 303
    assert led.headers["location"] == "/console/sign-in?next=/console/%3Frange%3Dmonth"
    await sign_in()
    page = await client.get(led.headers["location"])
    back = await client.post(
        "/console/sign-in",
        data={"csrf": csrf_of(page), "email": "ada@example.com", "password": PASSWORD, "next": "/console/?range=month"},
    )
    assert back.headers["location"] == "/console/?range=month"


@pytest.mark.parametrize(
    "path", ["https://evil.example/", "//evil.example", "/console\\@evil", "/api/v1/me", "/consoles", "", "/console/\n"]
)
def test_nobody_is_sent_away_from_the_console(path: str) -> None:
    assert safe_path(path) == "/console/"


async def test_cookies_are_not_for_scripts_and_pages_load_nothing_from_elsewhere(
    client: httpx.AsyncClient, sign_in: SignIn
) -> None:
    await sign_in()
    page = await client.get("/console/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|javascript:", page.text)
    assert not re.search(r'(src|href)="(https?:)?//', page.text)
    sign_in_page = await client.get("/console/sign-in")
    for cookie in sign_in_page.headers.get_list("set-cookie") or [
        page.headers.get("set-cookie", "HttpOnly; SameSite=lax")
    ]:
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie


async def test_over_https_cookies_are_secure_and_of_this_host(client: httpx.AsyncClient) -> None:
    page = await client.get("https://tallystick.test/console/sign-in")
    [cookie] = page.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-tallystick_csrf=")
    assert "Secure" in cookie


@pytest.mark.parametrize("token", ["", "guessed" * 6])
async def test_a_form_from_elsewhere_is_refused(client: httpx.AsyncClient, sign_in: SignIn, token: str) -> None:
    await sign_in()
    refused = await client.post("/console/sign-out", data={"csrf": token})
    assert refused.status_code == 403
    assert (await client.get("/console/")).status_code == 200, "still signed in"
    page = await client.get("/console/")
    crossing = await client.post(
        "/console/sign-out", data={"csrf": csrf_of(page)}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert crossing.status_code == 403


async def test_a_session_is_refreshed_until_it_is_over(
    client: httpx.AsyncClient, sign_in: SignIn, clock: FixedClock
) -> None:
    await sign_in()
    clock.at += timedelta(minutes=20)
    assert (await client.get("/console/")).status_code == 200
    page = await client.get("/console/")
    await client.post("/console/sign-out", data={"csrf": csrf_of(page)})
    assert (await client.get("/console/")).status_code == 303


async def test_a_name_with_a_script_is_shown_and_not_run(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    await sign_in()
    page = await client.get('/console/<script>alert("x")</script>')
    assert page.status_code == 404
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert" in page.text


async def test_pages_of_others_are_refused_and_not_shown(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    await sign_in()
    page = await client.get("/console/")
    assert "/console/customers" not in page.text


async def test_a_wrong_password_keeps_the_address(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    page = await client.get("/console/sign-in")
    refused = await client.post(
        "/console/sign-in", data={"csrf": csrf_of(page), "email": "who@example.com", "password": "wrong"}
    )
    assert refused.status_code == 401
    assert 'value="who@example.com"' in refused.text
    assert "wrong" not in re.sub(r"is wrong|wrong\.", "", refused.text).replace("field wrong", "")


async def test_assets_are_kept_for_good_under_the_hash_of_their_content(client: httpx.AsyncClient) -> None:
    page = await client.get("/console/sign-in")
    found = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page.text)
    total = len(page.content)
    for path in set(found):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        total += len(answer.content)
    assert len(set(found)) >= 7
    assert total <= 300 * 1024, "what a first visit transfers"
    old = await client.get(re.sub(r"static/\w+/", "static/0000/", found[0]))
    assert old.headers["cache-control"] == "no-cache"
    assert (await client.get("/console/static/0000/../app.py")).status_code == 404


async def test_the_language_is_the_browsers_or_the_chosen_one(client: httpx.AsyncClient) -> None:
    german = await client.get("/console/sign-in", headers={"Accept-Language": "de-AT,en;q=0.5"})
    assert '<html lang="de">' in german.text
    assert "Anmelden" in german.text
    await client.post("/console/language", data={"csrf": csrf_of(german), "language": "fr", "next": "/console/sign-in"})
    assert '<html lang="fr">' in (await client.get("/console/sign-in")).text
