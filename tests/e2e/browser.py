"""A real Chromium, headless, for tests of the portal."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

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


async def violations(page: Any) -> list[str]:
    """Return the violations that axe-core finds in the current page as it looks now."""
    from axe_playwright_python.async_playwright import Axe

    if not await page.evaluate("'axe' in window"):
        await page.evaluate(Axe().axe_script)
    found = await page.evaluate("axe.run({resultTypes: ['violations']}).then(results => results.violations)")
    return [f"axe {rule['id']}: {[node['html'][:200] for node in rule['nodes'][:2]]}" for rule in found]


class Variant(NamedTuple):
    """A colour scheme and a size of the window."""

    scheme: str
    viewport: dict[str, int]
    with_axe: bool

    async def show(self, page: Any) -> None:
        """Show the loaded page in this variant.

        Without motion the colours change at once. axe-core cannot measure the contrast of a colour in transition.
        """
        await page.emulate_media(color_scheme=self.scheme, reduced_motion="reduce")
        await page.set_viewport_size(self.viewport)


DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
VARIANTS = (
    Variant("light", DESKTOP, True),
    Variant("light", PHONE, False),
    Variant("dark", DESKTOP, False),
    Variant("dark", PHONE, True),
)


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
