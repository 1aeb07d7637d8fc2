"""A real Chromium for the tests that look at pages."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

# Chromium's own errands would leave this machine.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """The browser's path: JITACCESS_CHROMIUM, or the first that is installed."""
    return os.environ.get("JITACCESS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def wanted() -> bool:
    """Whether browser tests run: where there is a browser, and where one is insisted on."""
    return bool(chromium()) or os.environ.get("JITACCESS_TEST_BROWSER") == "1"


@contextlib.contextmanager
def launched(*arguments: str) -> Iterator[Browser]:
    path = chromium()
    assert path, "Chromium is needed here: install it, or set JITACCESS_CHROMIUM to its path."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments])
        yield browser
        browser.close()
