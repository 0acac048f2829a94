"""A real Chromium, headless, for tests of the portal."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.infra.settings import environment

EXECUTABLE = "/usr/bin/chromium"
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def unavailable(reason: str) -> None:
    """Skip the calling test, or fail it with RELAY_REQUIRE_BROWSER=1 as in CI."""
    if environment().get("RELAY_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and RELAY_REQUIRE_BROWSER=1", pytrace=False)
    pytest.skip(reason)


def require_chromium() -> None:
    """Skip the calling test where Chromium is not installed."""
    if not os.access(EXECUTABLE, os.X_OK):
        unavailable(f"{EXECUTABLE} is not installed")


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """Yield Playwright's ``Browser``. Skips the calling test if Chromium or Playwright is missing."""
    require_chromium()
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        unavailable("the playwright package is not installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=EXECUTABLE, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


class Console:
    """Collects the console errors of a page: script errors and violations of the content security policy."""

    def __init__(self, page: Any) -> None:
        self.complaints: list[str] = []
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        # The tests also visit pages that answer 404 or 502 on purpose.
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.complaints.append(text)
