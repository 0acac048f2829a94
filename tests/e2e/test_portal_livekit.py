"""The portal with a real LiveKit: joins appear without a reload, and participants can be removed."""

import time
from typing import Any

import pytest

from shared.infra.ids import Mode
from tests.e2e.browser import DESKTOP, VARIANTS, violations
from tests.e2e.conftest import Stack
from tests.e2e.participant import Person
from tests.e2e.test_portal import BrowsedPortal, create_project, shows, sign_up

pytestmark = pytest.mark.livekit
_SEEN_WITHIN_S = 2.0
_MODE: Mode = "test"


async def test_portal_shows_joins_live_and_removes_participants(stack: Stack, browser: Any) -> None:
    site = BrowsedPortal(str(stack.api.base_url).rstrip("/"), browser)
    page = await site.page(viewport=DESKTOP)
    await sign_up(page)
    project = await create_project(page, "Calls")
    key = await page.locator("code", has_text="sk_test_").inner_text()
    headers = {"authorization": f"Bearer {key}"}
    await page.goto(f"/projects/{project}?mode={_MODE}")
    await page.locator("#live-state").wait_for(state="visible")

    took_s = []
    people = []
    for number in range(3):
        body = {"room": "lobby", "identity": f"ada-{number}"}
        minted = (await stack.api.post("/v1/tokens", json=body, headers=headers)).json()
        people.append(await Person(f"ada-{number}").join(minted["url"], minted["token"]))
        joined = time.monotonic()
        await shows(page.locator("#now dd").first, str(number + 1))
        took_s.append(time.monotonic() - joined)
    print("seen after", [round(took, 2) for took in took_s], "s")
    # The best of three, because other tests on the machine may delay one of them.
    assert min(took_s) < _SEEN_WITHIN_S, took_s

    await people[0].publish(camera=True)
    await page.get_by_role("link", name="lobby").click()
    await page.reload()
    await page.get_by_text("camera").wait_for()
    addresses = (f"/projects/{project}?mode={_MODE}", f"/projects/{project}/rooms?mode={_MODE}", page.url)
    for address in addresses:
        await page.goto(address)
        for variant in VARIANTS:
            await variant.show(page)
            assert await violations(page) == [], (address, variant)
    await page.set_viewport_size(DESKTOP)
    await page.get_by_role("link", name="Remove ada-1").click()
    await page.get_by_role("button", name="Remove participant").click()
    await page.get_by_text("Participant removed.").wait_for()
    await people[1].wait_until_removed(10)
    await page.get_by_role("link", name="End room").click()
    await page.get_by_role("button", name="End room").click()
    await page.get_by_text("Room ended.").wait_for()
    for person in (people[0], people[2]):
        await person.wait_until_removed(10)
    await page.goto(f"/projects/{project}/sessions?mode={_MODE}")
    assert await page.locator("tbody tr").count() == 3
