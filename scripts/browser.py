"""A headless Chromium that tests and scripts drive with Playwright."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import ConsoleMessage, Error, Page, sync_playwright

_COMMANDS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
)
_PATIENCE_MS = 60_000  # other programs may delay a page


def find_chromium() -> str | None:
    """Return the command of an installed Chromium, if there is one."""
    return next((path for name in _COMMANDS if (path := shutil.which(name))), None)


@contextmanager
def open_page(command: str, width: int = 1280, height: int = 720) -> Iterator[Page]:
    """Run a browser in the block; yield a page of this size in pixels."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=command, args=_FLAGS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(_PATIENCE_MS)
            yield page
        finally:
            browser.close()


def collect_errors(page: Page) -> list[str]:
    """Return a list that gets the errors of a page's scripts, requests and policy."""
    errors: list[str] = []

    def add_message(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    def add_exception(error: Error) -> None:
        errors.append(str(error))

    page.on("console", add_message)
    page.on("pageerror", add_exception)
    return errors


def show(page: Page, address: str, *texts: str) -> str:
    """Open an address and wait until the page has all `texts`; return its text."""
    page.goto("about:blank")  # another fragment alone would load nothing
    page.goto(address)
    for text in texts:
        page.wait_for_function(f"document.body.innerText.includes({json.dumps(text)})")
    return page.inner_text("body")
