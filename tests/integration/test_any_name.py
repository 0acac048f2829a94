"""Rooms and participants of every name that LiveKit allows are shown, changed, ended and metered.

No request reaches another project or mode.
"""

import csv
import html
import io
import re
import unicodedata
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.cli.projects import create_project
from services.local.embedded import EmbeddedServers
from shared.infra.ids import Mode, livekit_room
from shared.infra.postgres.pool import Pool, create_pool, remember_times
from shared.infra.settings import DatabaseUrl
from shared.ledger.fold import fold_batch
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.conftest import fresh_database, settings_for
from tests.examples import examples
from tests.fake_livekit import FakeLiveKit, fake_livekit
from tests.integration.conftest import client_of_api, key_of
from tests.integration.test_isolation_names import claims_of
from tests.livekit_bodies import body, participant, room
from tests.portal_browser import Browser

# A project's prefix takes 20 of the 256 bytes.
ROOM_BYTES, IDENTITY_BYTES = 236, 256
SPELLINGS = (
    "call_+15105550100_AbCdEf", "Team Standup", "Büro/2. Stock", "https://idp.example/u/1", "auth0|5f7c", "a+b@example.com",
    "a%2Fb", "a%252Fb", "/", "//", "..", ".", "../lobby", "lobby/participants/ada", "lobby/", "/lobby", " lobby ", "LOBBY",
    "a?b#c", "a&b=c", "\"quoted\"", "<b>", "'", "\\", "\0", "a\nb", "a\r\nb", "\t", "=1+1", "{{ 7 * 7 }}", "\u202eabc",
    "\U0001f600", "__", "data",
    unicodedata.normalize("NFD", "Zoë"), unicodedata.normalize("NFC", "Zoë"), "\ufeffx", "p_aaaaaaaaaaaaaaaa__lobby",
    "participants", "x" * 236, "é" * 118,
)  # fmt: skip


def names(longest: int) -> st.SearchStrategy[str]:
    anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
    parts = st.lists(
        st.sampled_from((*"/%.?#&+;: \"'<>\\@|=~", "%2F", "..", "lobby", "ada", "é")), min_size=1, max_size=8
    )
    drawn = st.one_of(anything, parts.map("".join), st.sampled_from(SPELLINGS))
    return drawn.filter(lambda name: len(name.encode()) <= longest)


def printable(text: str) -> bool:
    unseen = re.search("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]", text)
    return bool(text.strip()) and unseen is None


def in_path(name: str) -> str:
    # httpx resolves `.` and `..` unless they are encoded.
    return quote(name, safe="").replace(".", "%2E")


class NamesSite(NamedTuple):
    """One API, its LiveKit, and two projects; ``ada`` owns ``ours`` in the portal."""

    api: httpx.AsyncClient
    livekit: FakeLiveKit
    pool: Pool
    ours: CreatedProject
    theirs: CreatedProject
    ada: Browser
    database: DatabaseUrl

    def create_rooms(self, name: str, identity: str) -> list[str]:
        """Create the same room and participant in both projects and modes.

        Returns LiveKit's names of all these rooms except that of ``ours`` in live mode.
        """
        self.livekit.rooms.clear()
        self.livekit.people.clear()
        self.livekit.calls.clear()
        tracks = [{"sid": "TR_1", "source": "MICROPHONE"}]
        modes: tuple[Mode, Mode] = ("live", "test")
        all_names = [livekit_room(each.project_id, mode, name) for each in (self.ours, self.theirs) for mode in modes]
        for each in all_names:
            self.livekit.add_participant(each, identity, tracks=tracks)
        return all_names[1:]

    def assert_only_own_room_was_reached(self, name: str, others: list[str]) -> None:
        ours = livekit_room(self.ours.project_id, "live", name)
        for call in self.livekit.calls:
            named = list(call.message.names) if call.method == "ListRooms" else [call.message.room]
            assert set(named) <= {ours}
        assert set(others) <= set(self.livekit.rooms)
        assert all(self.livekit.people[other] for other in others)


@pytest.fixture(scope="module")
async def site(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[NamesSite]:
    with fresh_database(servers, migrated_template) as database:
        async with fake_livekit() as livekit, create_pool(database, "tests", init=remember_times) as pool:
            given_settings = msgspec.structs.replace(
                settings_for(database, servers.redis_url), livekit_api_url=livekit.url
            )
            ours, theirs = await create_project(database, "ours"), await create_project(database, "theirs")
            async with client_of_api(given_settings) as api, Browser(str(api.base_url)) as ada:
                await ada.sign_up("ada")  # the first account administers the instance and owns every project
                yield NamesSite(api, livekit, pool, ours, theirs, ada, database)


generated = settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@generated
@example(name="call_+15105550100_AbCdEf", identity="sip_+15105550100")
@example(name="Büro/2. Stock", identity="https://idp.example/u/1")
@example(name="..", identity="..")
@example(name="a%2Fb", identity="a%2Fb")
@given(name=names(ROOM_BYTES), identity=names(IDENTITY_BYTES))
async def test_the_api_reads_updates_and_ends_rooms_of_any_name(site: NamesSite, name: str, identity: str) -> None:
    others = site.create_rooms(name, identity)
    headers = key_of(site.ours)

    async def ask(method: str, path: str, **more: Any) -> Any:
        answer = await site.api.request(method, f"/v1/rooms{path}", headers=headers, **more)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else None

    of_room = f"/{in_path(name)}"
    of_participant = f"{of_room}/participants/{in_path(identity)}"
    assert [each["room"] for each in (await ask("GET", ""))["rooms"]] == [name]
    shown = await ask("GET", of_room)
    assert (shown["room"], [each["identity"] for each in shown["participants"]]) == (name, [identity])
    assert (await ask("PATCH", of_room, json={"metadata": "m"}))["room"] == name
    assert (await ask("GET", of_participant))["identity"] == identity
    assert (await ask("PATCH", of_participant, json={"metadata": "m"}))["metadata"] == "m"
    assert (await ask("POST", f"{of_participant}/mute", json={}))["tracks"][0]["muted"] is True
    await ask("POST", f"{of_room}/data", json={"data": "x", "destinationIdentities": [identity]})
    await ask("DELETE", of_participant)
    assert (await ask("GET", of_room))["participants"] == []
    await ask("DELETE", of_room)
    assert (await ask("GET", ""))["rooms"] == []
    site.assert_only_own_room_was_reached(name, others)


def link(page: str, pattern: str) -> str:
    found = re.search(pattern, page)
    assert found is not None, page
    return html.unescape(found[1])


@generated
@example(name="a\r\nb", identity="a\rb")
@example(name="\0", identity="\0")
@example(name=" x ", identity="https://idp.example/u/1")
@given(name=names(ROOM_BYTES), identity=names(IDENTITY_BYTES))
async def test_the_portal_shows_and_ends_rooms_of_any_name(site: NamesSite, name: str, identity: str) -> None:
    """The test uses only the portal's own links and forms."""
    others = site.create_rooms(name, identity)
    home = f"/projects/{site.ours.project_id}"
    ours = livekit_room(site.ours.project_id, "live", name)
    rooms = await site.ada.get(f"{home}/rooms")
    address = link(rooms.text, r'href="([^"]+)" id="room-1"')
    page = await site.ada.get(address)
    assert page.status_code == 200
    confirm = await site.ada.get(link(page.text, r'id="remove-1" href="([^"]+)"'))
    assert (await site.ada.submit(link(confirm.text, r'action="([^"]+/room/remove[^"]*)"'))).status_code == 303
    assert site.livekit.people[ours] == {}
    confirm = await site.ada.get(link((await site.ada.get(address)).text, r'href="([^"]+/room/end[^"]*)"'))
    assert (await site.ada.submit(link(confirm.text, r'action="([^"]+/room/end[^"]*)"'))).status_code == 303
    assert ours not in site.livekit.rooms
    site.assert_only_own_room_was_reached(name, others)
    noted = await site.pool.fetch("SELECT action, target FROM audit_log ORDER BY id DESC LIMIT 2")
    assert [tuple(row) for row in noted] == [
        ("room_ended", name.replace("\0", "\ufffd")),
        ("participant_removed", identity.replace("\0", "\ufffd")),
    ]


@pytest.mark.parametrize("name", ["", "x" * 237, "é" * 119, "\U0001f600" * 60])
async def test_an_impossible_room_name_never_reaches_livekit(site: NamesSite, name: str) -> None:
    site.create_rooms("lobby", "ada")
    if name:
        answer = await site.api.delete(f"/v1/rooms/{in_path(name)}", headers=key_of(site.ours))
        assert (answer.status_code, answer.json()["code"]) == (404, "room_not_found")
    home = f"/projects/{site.ours.project_id}"
    await site.ada.get(f"{home}/room/end?name=x")
    assert (await site.ada.submit(f"{home}/room/end", name=name)).status_code == 404
    assert site.livekit.calls == []


@generated
@given(identity=names(400))
@example(identity="a+b@example.com")
@example(identity="auth0|5f7c")
@example(identity="Zoë")
@example(identity="é" * 128)
@example(identity="é" * 129)
@example(identity="x" * 256)
@example(identity="x" * 257)
async def test_a_token_is_created_for_every_printable_identity(site: NamesSite, identity: str) -> None:
    sent = msgspec.json.encode({"room": "lobby", "identity": identity})
    headers = {**key_of(site.ours), "Content-Type": "application/json"}
    answer = await site.api.post("/v1/tokens", content=sent, headers=headers)
    if printable(identity) and len(identity.encode()) <= IDENTITY_BYTES:
        assert answer.status_code == 200, answer.text
        assert claims_of(answer.json()["token"])["sub"] == answer.json()["identity"] == identity
    else:
        assert (answer.status_code, answer.json()["param"]) == (400, "identity")


@settings(max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(
        st.tuples(names(ROOM_BYTES), names(IDENTITY_BYTES)), min_size=4, max_size=8, unique_by=lambda pair: pair[0]
    )
)
async def test_usage_sessions_and_events_are_found_by_any_name(site: NamesSite, drawn: list[tuple[str, str]]) -> None:
    start_s = 1_795_000_000
    project = await create_project(site.database, "metered")  # usage of the previous example is not counted
    pairs = [(name, identity) for name, identity in drawn if "\0" not in name + identity]
    bodies = []
    for number, (name, identity) in enumerate(pairs):
        tag = f"{project.project_id}{number}"
        rm = room(livekit_room(project.project_id, "live", name), f"RM_{tag}", start_s)
        who = participant(f"PA_{tag}", identity, start_s * 1000)
        bodies.append(body("participant_joined", f"EV_{tag}a", start_s, room=rm, participant=who))
        bodies.append(body("participant_left", f"EV_{tag}b", start_s + 60, room=rm, participant=who))
    async with site.pool.acquire() as conn:
        await fold_batch(conn, 0, [Received((start_s + 61) * 1000, one) for one in bodies])
    headers = key_of(project)
    for number, (name, identity) in enumerate(pairs):
        for kind, count in (("sessions", 1), ("events", 2)):
            params = {"room": name, "identity": identity, "from": "2026-11-01T00:00:00Z"}
            found = (await site.api.get(f"/v1/{kind}", params=params, headers=headers)).json()[kind]
            assert len(found) == count, (kind, name, identity)
            assert {(each["room"], each["identity"]) for each in found} == {(name, identity)}
        await site.ada.get(f"/projects/{project.project_id}/sessions")
        page = await site.ada.get(f"/projects/{project.project_id}/sessions", identity=identity, room=name)
        assert f"sessions/PA_{project.project_id}{number}" in unquote(page.text)
    for group, position in (("room", 0), ("identity", 1)):
        params = {"groupBy": group, "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}
        answer = (await site.api.get("/v1/usage", params=params, headers=headers)).json()
        assert {each[group] for each in answer["groups"]} == {pair[position] for pair in pairs}
        table = await site.api.get("/v1/usage", params=params, headers={**headers, "Accept": "text/csv"})
        rows = list(csv.reader(io.StringIO(table.text, newline="")))[1:]
        assert {row[0].removeprefix("'") for row in rows} == {pair[position].removeprefix("'") for pair in pairs}
        for row in rows:
            assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
