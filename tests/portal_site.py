"""One running portal for all tests of a module: each test has separate accounts, e-mail addresses and client addresses."""

import itertools
from typing import NamedTuple

from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from tests.portal_browser import Browser

_numbers = itertools.count(1)


class RunningPortal(NamedTuple):
    """A portal with open sign-up whose administrator exists already. ``pool`` leads to its database."""

    url: str
    settings: Settings
    pool: Pool


class PortalSite:
    """What one test uses of a running portal: browsers of a separate e-mail domain and separate client addresses."""

    def __init__(self, portal: RunningPortal) -> None:
        self.url, self.settings, self.pool = portal
        self._number = next(_numbers)
        self._opened: list[Browser] = []

    def address(self, place: int) -> str:
        """Return the client address number ``place`` (1 to 254) of this test."""
        return f"10.{self._number >> 8}.{self._number & 255}.{place}"

    def browser(self, place: int = 1) -> Browser:
        browser = Browser(self.url, domain=f"t{self._number}.example.com", address=self.address(place))
        self._opened.append(browser)
        return browser

    def email(self, name: str) -> str:
        return f"{name}@t{self._number}.example.com"

    async def account(self, name: str) -> str:
        """Return the id of an account of this test."""
        found = await self.pool.fetchval("SELECT id FROM account WHERE email = $1", self.email(name))
        assert isinstance(found, str)
        return found

    async def make_administrator(self, name: str) -> None:
        await self.pool.execute("UPDATE account SET is_admin = true WHERE email = $1", self.email(name))

    async def close(self) -> None:
        for browser in self._opened:
            await browser.client.aclose()
