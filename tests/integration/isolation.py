"""Two projects in two modes with equal resources, and checks whether one accesses another's."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx

from shared.infra.ids import MODES, Mode, livekit_room
from shared.infra.postgres.pool import Pool
from shared.keys.service import create_key
from shared.ledger.fold import fold_batch
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.fake_livekit import FakeLiveKit
from tests.integration.conftest import key_of
from tests.livekit_bodies import meeting


class Holding(NamedTuple):
    """The resources of one project in one mode, and their names.

    ``mark`` is part of every text that only the owner may see.
    """

    project: CreatedProject
    mode: Mode
    mark: str
    room: str
    identity: str
    track: str
    session: str
    key_id: str

    @property
    def headers(self) -> dict[str, str]:
        return key_of(self.project, self.mode)

    def name(self, room: str) -> str:
        """Return LiveKit's name of a room."""
        return livekit_room(self.project.project_id, self.mode, room)

    @property
    def prefix(self) -> str:
        return self.name("")

    @property
    def secrets(self) -> set[str]:
        return {self.mark, self.room, self.identity, self.track, self.session, self.key_id, self.prefix}


class IsolationWorld(NamedTuple):
    """The API, its database, its LiveKit, and the resources of all projects."""

    api: httpx.AsyncClient
    pool: Pool
    livekit: FakeLiveKit
    holdings: list[Holding]

    def pairs(self) -> Iterator[tuple[Holding, Holding]]:
        """Yield (stranger, owner): another project in either mode, and the same project in the other mode."""
        return ((one, other) for one in self.holdings for other in self.holdings if one is not other)

    async def state_of(self, owner: Holding) -> str:
        """Return everything that a stranger must not change, as text."""
        rooms = {
            name: (room.SerializeToString(), self._people(name))
            for name, room in sorted(self.livekit.rooms.items())
            if name.startswith(owner.prefix)
        }
        rows = []
        for table in ("api_key", "session", "usage_hour", "attempt"):
            found = await self.pool.fetchval(
                f"SELECT string_agg(t::text, chr(10) ORDER BY t::text) FROM {table} t WHERE project_id = $1 AND mode = $2",  # noqa: S608  # names of tables
                owner.project.project_id,
                owner.mode,
            )
            rows.append(found)
        sent = [packet for packet in self.livekit.sent if packet.room.startswith(owner.prefix)]
        return json.dumps([repr(rooms), rows, repr(sent)])

    def _people(self, name: str) -> list[bytes]:
        return [person.SerializeToString() for _, person in sorted(self.livekit.people.get(name, {}).items())]


async def create_holding(pool: Pool, livekit: FakeLiveKit, project: CreatedProject, mode: Mode, tag: str) -> Holding:
    """Create a room with a participant, ended sessions with events and usage, and a spare key.

    Also creates a ``lobby`` with an ``ada``, which every project has.
    """
    mark = f"only-for-{tag}"
    livekit_name = livekit_room(project.project_id, mode, f"room-of-{tag}")
    now_s = int(time.time())
    start_s = now_s - now_s % 3600 - 7200
    bodies = meeting(livekit_name, start_s=start_s, tag=tag)
    async with pool.acquire() as conn:
        await fold_batch(conn, 0, [Received(now_s * 1000, one) for one in bodies])
    async with pool.acquire() as conn, conn.transaction():
        key = await create_key(conn, project.project_id, mode, "secret", f"spare {mark}", datetime.now(UTC))
    holding = Holding(
        project, mode, mark, f"room-of-{tag}", f"guest-of-{tag}", f"TR_of_{tag}", f"PA_{tag}1", key.key_id
    )
    livekit.add_room(livekit_name, metadata=mark)
    livekit.add_room(holding.name("lobby"), metadata=mark)
    tracks = [{"sid": holding.track, "name": mark}]
    for room, identity in ((holding.room, holding.identity), (holding.room, "ada"), ("lobby", "ada")):
        livekit.add_participant(
            holding.name(room), identity, name=mark, metadata=mark, attributes={"mark": mark}, tracks=tracks
        )
    return holding


async def build_world(
    api: httpx.AsyncClient, pool: Pool, livekit: FakeLiveKit, projects: list[CreatedProject]
) -> IsolationWorld:
    holdings = [
        await create_holding(pool, livekit, project, mode, f"{project.name}{mode}")
        for project in projects
        for mode in MODES
    ]
    return IsolationWorld(api, pool, livekit, holdings)


def reached(livekit: FakeLiveKit) -> set[str]:
    """Return the rooms that the calls so far named, in their message or in the grants of their token."""
    names: set[str] = set()
    for call in livekit.calls:
        given: Any = call.message
        fields = given.DESCRIPTOR.fields_by_name
        of_room = "name" if call.method == "CreateRoom" else "room"
        names.update(getattr(given, field) for field in (of_room, "room_name") if field in fields)
        names.update(given.names if "names" in fields else ())
        names.add(call.grants.get("room", ""))
    return names - {""}
