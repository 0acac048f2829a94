"""A browser without JavaScript, for tests of the portal over HTTP. It keeps cookies and submits forms."""

import html
import re
from typing import Any

import httpx
from argon2 import PasswordHasher
from argon2.low_level import Type

from services.api.portal.passwords.hashing import Passwords
from tests.http_clients import loopback_client

_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')
_LINK = re.compile(r"(/invitations/[A-Za-z0-9_-]+)")
PASSWORD = "correct horse battery"


def quick_passwords() -> Passwords:
    """Return passwords whose hashes cost almost nothing. They differ from those of Relay only in argon2's parameters."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID))


class Browser:
    """A browser: ``get`` a page, then ``submit`` one of its forms.

    ``domain``: of the e-mail addresses of its accounts. ``address``: its client address, as a proxy on this machine names it.
    """

    def __init__(self, base_url: str, *, domain: str = "example.com", address: str | None = None) -> None:
        headers = {} if address is None else {"x-forwarded-for": address}
        self.client = loopback_client(base_url, headers=headers)
        self.domain = domain
        self.form_token = ""

    async def __aenter__(self) -> "Browser":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    def email(self, name: str) -> str:
        return f"{name}@{self.domain}"

    async def get(self, path: str, **query: Any) -> httpx.Response:
        answer = await self.client.get(path, params=query or None, headers={"accept": "text/html"})
        return self._noted(answer)

    async def submit(self, path: str, **fields: str) -> httpx.Response:
        """Post a form with the form token of the last page."""
        answer = await self.client.post(path, data={"form_token": self.form_token, **fields})
        return self._noted(answer)

    def _noted(self, answer: httpx.Response) -> httpx.Response:
        found = _TOKEN.search(answer.text)
        if found is not None:
            self.form_token = html.unescape(found[1])
        return answer

    async def follow(self, answer: httpx.Response) -> httpx.Response:
        assert answer.status_code == 303, answer.text
        return await self.get(answer.headers["location"])

    async def sign_up(self, name: str, path: str = "/sign-up") -> httpx.Response:
        """Create the account ``name`` with an e-mail address of the browser's domain."""
        await self.get(path)
        answer = await self.submit(path, name=name, email=self.email(name), password=PASSWORD)
        assert answer.status_code == 303, answer.text
        await self.get("/account")
        return answer

    async def sign_in(self, name: str, password: str = PASSWORD, wanted: str = "/") -> httpx.Response:
        await self.get("/sign-in")
        return await self.submit("/sign-in", email=self.email(name), password=password, next=wanted)

    async def create_project(self, name: str) -> str:
        """Create a project and return its id."""
        await self.get("/projects/new")
        answer = await self.submit("/projects/new", name=name)
        assert answer.status_code == 201, answer.text
        found = re.search(r"/projects/([a-z0-9]+)/quickstart", answer.text)
        assert found is not None
        return found[1]

    async def invitation(self, project_id: str, role: str) -> str:
        """Create an invitation and return the path of its link."""
        await self.get(f"/projects/{project_id}/members")
        answer = await self.submit(f"/projects/{project_id}/members/invite", role=role, note="somebody")
        assert answer.status_code == 201, answer.text
        found = _LINK.search(answer.text)
        assert found is not None
        return found[1]
