"""The console in a real browser: Debian's chromium, driven by Playwright, on a stack that runs for the whole session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen
from uuid import UUID

import asyncpg
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from deploy.local import ports
from deploy.migrate import migrate
from deploy.seed import seed
from services.accounts.api_keys.desk import Wish as KeyWish
from services.accounts.api_keys.desk import create_key
from services.accounts.provider_keys.keyring import new_secret
from services.accounts.users.desk import Wish, add_user
from shared.clock import SystemClock
from shared.kafka import create_topics
from tests.integration.api.issuer import AUDIENCE
from tests.integration.console.provider import CLIENT, Provider, running_provider
from tests.integration.schema_facts import make_subscription

PASSWORD: Final = "a long sentence that nobody guesses"
SHOTS: Final = Path("build/console")
"""Screenshots, for people to look at."""
AXE: Final = Path(__file__).parent / "vendor" / "axe.min.js"
READY_SECONDS: Final = 60
MOST_SHIFT: Final = 0.01
"""Most cumulative layout shift of a page; browsers call up to 0.1 good."""
_SHIFTS: Final = """() => new Promise((told) => {
  const found = [];
  const note = (entries) => entries.forEach((each) => each.hadRecentInput || found.push(
    [each.value, each.sources.map((source) => source.node?.outerHTML?.slice(0, 80) ?? String(source.node?.nodeName))]));
  const observer = new PerformanceObserver((list) => note(list.getEntries()));
  observer.observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => setTimeout(() => { note(observer.takeRecords()); told(found); }));
})"""


def now_in_thread(work: Awaitable[Any]) -> Any:
    """Run something asynchronous while Playwright's own loop holds this thread."""

    async def done() -> Any:
        return await work

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, done()).result(120)


@dataclass(frozen=True, slots=True)
class Site:
    """The running stack: where the console is, and its database."""

    url: str
    database: str
    provider: Provider

    def ask(self, query: str, *arguments: Any) -> Any:
        """Return a value from the database."""
        return self.with_database(lambda connection: connection.fetchval(query, *arguments))

    def until(self, query: str, *arguments: Any, wanted: Any) -> None:
        """Return when a query gives what is wanted: what the workers make of what was sent."""
        deadline = monotonic() + READY_SECONDS
        while (found := self.ask(query, *arguments)) != wanted:
            assert monotonic() < deadline, f"{query} gives {found}, not {wanted}"
            sleep(0.1)

    def with_database(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        """Do something with the rights of the owner."""

        async def done() -> Any:
            connection = await asyncpg.connect(self.database)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return now_in_thread(done())


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account, and with a subscription and an API key if they are a customer."""

    id: UUID
    email: str
    subscription_id: UUID | None
    key: str


@pytest.fixture(scope="session")
def site(postgres: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """API with console, ingest, aggregator and billing, on free ports, with a database and topics of their own.

    The API is the client of an identity provider, and a bank in memory takes its payments.
    """
    chosen = {name: ports.choose() for name in ("api", "ingest", "aggregator", "billing", "pages")}
    database = now_in_thread(_database(postgres))
    prefix = f"test-{uuid.uuid4().hex[:12]}."
    now_in_thread(create_topics(kafka_bootstrap, partitions=2, prefix=prefix))
    environ = {
        **os.environ, "DATABASE_URL": database, "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "TALLYSTICK_KAFKA_TOPIC_PREFIX": prefix,
        "TALLYSTICK_BILLING_CLOSE_PERIODS": "false", "TALLYSTICK_BILLING_GRACE_HOURS": "0", "TALLYSTICK_API_PORT": str(chosen["pages"]),
        "PYTHONPATH": str(Path.cwd()),
        "TALLYSTICK_PROVIDER_KEY_SECRETS": new_secret("tests"), "TALLYSTICK_API_REQUESTS_PER_SECOND": "0",
        "TALLYSTICK_API_REFUSALS_PER_MINUTE": "0",
    }  # fmt: skip
    logs = tmp_path_factory.mktemp("logs")
    url = f"http://127.0.0.1:{chosen['pages']}"
    with contextlib.ExitStack() as until_the_end:
        provider = until_the_end.enter_context(
            running_provider(SystemClock(), f"{url}/console/sign-in/callback", asks=True)
        )
        own = {"api": {
            "TALLYSTICK_OIDC_ISSUER": provider.url, "TALLYSTICK_OIDC_AUDIENCE": AUDIENCE, "TALLYSTICK_OIDC_CLIENT_ID": CLIENT,
            "TALLYSTICK_OIDC_CREATE_USERS": "true", "TALLYSTICK_PAYMENT_PROVIDER": "stripe",
        }}  # fmt: skip
        running: list[subprocess.Popen[bytes]] = []
        until_the_end.callback(_end, running)
        for name in ("ingest", "aggregator", "billing", "api"):
            log = until_the_end.enter_context((logs / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.browser.api" if name == "api" else f"services.{name}"],
                env={**environ, **own.get(name, {}), "TALLYSTICK_HTTP_PORT": str(chosen[name])}, stdout=log, stderr=log,
            )  # fmt: skip
            running.append(process)
        for name in ("ingest", "aggregator", "billing", "api"):
            _until_ready(f"http://127.0.0.1:{chosen[name]}/readyz", logs / f"{name}.log")
        yield Site(url, database, provider)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium. Where there is none, the tests fail."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A tab of somebody who has never been here. What a page's policy forbids, or a script of ours breaks, fails the test."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 850}, locale="en-GB")
    context.set_default_timeout(15_000)
    tab = context.new_page()
    broken: list[str] = []
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.on(
        "console",
        lambda said: (
            broken.append(said.text) if said.type == "error" and "Content Security Policy" in said.text else None
        ),
    )
    yield tab
    context.close()
    assert broken == []


@pytest.fixture
def customer(site: Site) -> Callable[..., Person]:
    """Make somebody with these roles and this name; with a subscription unless they are new."""

    def made(*roles: str, name: str = "Ada Lovelace", subscribed: bool = True) -> Person:
        email = f"ada-{uuid.uuid4().hex[:8]}@example.com"

        async def work(connection: asyncpg.Connection) -> Person:
            async with connection.transaction():
                id_ = await add_user(connection, Wish(email, name, roles, PASSWORD))
                if not subscribed:
                    return Person(id_, email, None, "")
                subscription = await make_subscription(connection, id_, quota_requests=1000, quota_tokens=1_000_000)
                _, key = await create_key(
                    connection, KeyWish(subscription, "gateway"), pepper="", now=SystemClock().now()
                )
            return Person(id_, email, subscription, key)

        found: Person = site.with_database(work)
        return found

    return made


@pytest.fixture
def sign_in(page: Page, customer: Callable[..., Person]) -> Callable[..., Person]:
    """Make somebody with these roles, and sign them in as a person does."""

    def done(*roles: str, **how: Any) -> Person:
        person = customer(*roles, **how)
        page.goto("/console/")
        type_password(page, person)
        page.wait_for_url("**/console/")
        return person

    return done


def type_password(page: Page, person: Person) -> None:
    """Fill in the sign-in that is shown."""
    page.get_by_label("E-mail address").fill(person.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def settled(page: Page, name: str) -> None:
    """Keep a screenshot, and see that axe finds nothing serious, no text is cut off at the side, and nothing jumped."""
    page.wait_for_load_state("load")
    shifts = shifts_of(page)
    assert sum(value for value, _ in shifts) <= MOST_SHIFT, f"{name}: {shifts}"
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
    assert serious(page) == [], name
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
        f"{name}: too wide"
    )


def shifts_of(page: Page) -> list[tuple[float, list[str]]]:
    """Return what moved on a page by itself since it was loaded: how much, and what."""
    return [(value, moved) for value, moved in page.evaluate(_SHIFTS)]


def serious(page: Page) -> list[str]:
    """Return what axe finds that is serious or worse."""
    # Evaluated by the debugger, which the page's policy does not bind.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{each['id']}: {[node['html'][:160] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


async def _database(server: str) -> str:
    name = f"console_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(server)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    await migrate(url)
    await seed(url, test_data=True)
    return url


def _until_ready(url: str, log: Path) -> None:
    deadline = monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(OSError), urlopen(url, timeout=2) as answer:  # noqa: S310
            if answer.status == 200:
                return
        assert monotonic() < deadline, f"{url} is not ready: {log.read_text()[-2000:]}"
        sleep(0.1)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
