"""A participant that records joins, tracks, data messages and changes in the room."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.e2e.participant import Person

_WITHIN_S = 20.0
_CHANGES = (
    "participant_name_changed",
    "participant_metadata_changed",
    "participant_attributes_changed",
    "participant_permissions_changed",
    "room_metadata_changed",
    "track_muted",
)


class Guest(Person):
    """A participant that records what it receives.

    ``met`` holds identities, ``tracks`` (identity, kind) of received tracks, ``heard`` (sender or None, topic, payload), and
    ``changes`` the names of the change events.
    """

    def __init__(self, identity: str) -> None:
        super().__init__(identity)
        self.met: list[str] = []
        self.tracks: list[tuple[str, str]] = []
        self.heard: list[tuple[str | None, str | None, bytes]] = []
        self.changes: list[str] = []
        self._news = asyncio.Event()

    @property
    def room(self) -> Any:
        return self._room

    @property
    def me(self) -> Any:
        return self._room.local_participant

    def _listen(self) -> None:
        kinds = self.rtc.TrackKind
        on = self._room.on
        on("participant_connected", lambda them: self._note(self.met, them.identity))
        on(
            "track_subscribed",
            lambda track, _publication, them: self._note(self.tracks, (them.identity, kinds.Name(track.kind))),
        )
        on("data_received", self._on_data)
        for change in _CHANGES:
            on(change, lambda *_, change=change: self._note(self.changes, change))

    def _on_data(self, packet: Any) -> None:
        sender = None if packet.participant is None else packet.participant.identity
        self._note(self.heard, (sender, packet.topic, bytes(packet.data)))

    def _note(self, where: list[Any], what: Any) -> None:
        where.append(what)
        self._news.set()

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for events until ``holds`` is true. Fails after 20 s."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.identity}: never {what}; met {self.met}, tracks {self.tracks}, heard {self.heard},"
                f" changes {self.changes}"
            ) from None

    async def say(self, text: str, topic: str = "") -> None:
        await self.me.publish_data(text, reliable=True, topic=topic)
