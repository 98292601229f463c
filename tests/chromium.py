"""A real browser for tests of the search page: Chromium, driven by Playwright."""

import contextlib
import os
import shutil
from collections.abc import Generator

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT = "no Chromium here: apt-get install chromium"  # why tests are skipped
# All but the first keep the browser from contacting other servers.
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
PATIENCE = 60_000  # ms: the machine may be busy with other tests


@contextlib.contextmanager
def running_browser() -> Generator[Browser]:
    """Starts Chromium without a window."""
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=3 * PATIENCE)
        yield browser
        browser.close()


@contextlib.contextmanager
def fresh_page(browser: Browser, address: str) -> Generator[Page]:
    """Opens a page in a fresh context; until its end it may log no errors and contact no other server."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(PATIENCE)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda r: None if r.url.startswith((address, "blob:")) else problems.append(r.url))
    yield page
    context.close()
    # Chromium reports 4xx responses, which some tests provoke.
    assert [line for line in problems if "Failed to load resource" not in line] == []


def answer_with(page: Page, address: str, body: dict) -> None:
    """Answers the later requests of a loaded page whose address contains `address` with JSON.

    In the page itself: Chromium may send the first requests of a loaded page past a new `page.route`.
    """
    script = """([address, body]) => {
      const send = window.fetch;
      window.fetch = (to, options) =>
        String(to).includes(address) ? Promise.resolve(Response.json(body)) : send(to, options);
    }"""
    page.evaluate(script, [address, body])
