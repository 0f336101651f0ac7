"""Takes the pictures of the console in docs/pictures from what `tallystick demo --console` serves. `make console-pictures`; needs chromium.

They are of one run, so nothing compares them with another. Words after the command go to the demo, such as `--events 20000`.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

PICTURES: Final = Path(__file__).parent / "pictures"
WIDTH, HEIGHT, SCALE = 1180, 820, 1.5
QUALITY: Final = 82
MOST_BYTES: Final = 150 * 1024
LINK: Final = re.compile(r"http://\S+/console/enter\?token=\S+")


@contextmanager
def demo_links() -> Iterator[list[str]]:
    """Run the demo until it has printed its links: of a customer, and of an operator. It ends with the block."""
    own = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"}}
    with tempfile.TemporaryDirectory() as directory:
        command = [str(Path(sys.executable).with_name("tallystick")), "demo", "--console", *sys.argv[1:]]
        environ = own | {"TALLYSTICK_LOCAL_DIR": f"{directory}/local"}
        demo = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
        assert demo.stdout is not None  # noqa: S101 (for the type checker)
        links: list[str] = []
        try:
            for line in demo.stdout:
                links += LINK.findall(line)
                if len(links) == 2:
                    break
            else:
                sys.exit(f"the demo ended with {demo.wait()} before it printed its links")
            yield links
        finally:
            demo.send_signal(signal.SIGINT)
            demo.stdout.read()
            demo.wait()


def take(page: Page, name: str) -> None:
    """Keep what is seen as a picture, when it stands still."""
    page.mouse.move(0, 0)
    page.wait_for_load_state("networkidle")
    seen = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    content = base64.b64decode(seen["data"])
    if len(content) > MOST_BYTES:
        sys.exit(f"{name} has {len(content):,} bytes, more than {MOST_BYTES:,}")
    (PICTURES / f"{name}.webp").write_bytes(content)


def visitor(browser: Browser, link: str, scheme: str) -> Page:
    """Return a page of somebody who came by a link."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, locale="en-GB",
        color_scheme="dark" if scheme == "dark" else "light",
    )  # fmt: skip
    page = context.new_page()
    page.goto(link)
    return page


def main() -> None:
    """Run the demo, and write the pictures of its console."""
    program = shutil.which("chromium") or sys.exit("chromium is missing: apt-get install chromium")
    with demo_links() as (customer, operator), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = visitor(browser, customer, "light")
        take(page, "console-overview")
        page.emulate_media(color_scheme="dark")
        page.goto(re.sub("/console/.*", "/console/usage?range=month&group_by=model", page.url))
        take(page, "console-usage")
        page = visitor(browser, operator, "light")
        page.goto(re.sub("/console/.*", "/console/health", page.url))
        page.wait_for_selector("#standing")
        take(page, "console-health")
        browser.close()


if __name__ == "__main__":
    main()
