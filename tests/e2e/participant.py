"""A participant of a LiveKit room that records its own times.

``python -m tests.e2e.participant URL TOKEN`` runs one as a process that a test can kill.
"""

import asyncio
import importlib
import sys
import time
from typing import Any

# Imported by name, because not every lock file has it and type checking must not depend on it.
SDK = "livekit.rtc"
_WIDTH, _HEIGHT, _RATE = 160, 120, 48000


class Person:
    """A participant. Times are unix seconds of this machine, which also runs LiveKit. 0 means not yet."""

    def __init__(self, identity: str) -> None:
        self.rtc: Any = importlib.import_module(SDK)
        self.identity = identity
        self.calling = self.connected = self.gone = 0.0
        # When the end of the session was requested, by this person or another, and when it was done.
        self.leaving = self.left = 0.0
        self.showing = self.video_on = self.video_off = self.video_ended = 0.0
        self.left_by_itself = False
        self._room: Any = None
        self._media: list[asyncio.Task[None]] = []
        self._camera: Any = None
        self._disconnected = asyncio.Event()

    @property
    def connected_s(self) -> float:
        """The seconds since connect() returned."""
        return self.gone - self.connected

    @property
    def calling_s(self) -> float:
        """The seconds since before connect()."""
        return self.gone - self.calling

    @property
    def shortest_s(self) -> float:
        """The minimum length of the session, even if this process was scheduled late."""
        return (self.leaving or self.gone) - self.connected

    @property
    def longest_s(self) -> float:
        """The maximum length of the session."""
        return (self.left or self.gone) - self.calling

    @property
    def video_s(self) -> float:
        return (self.video_off or self.gone) - self.video_on if self.video_on else 0.0

    @property
    def longest_video_s(self) -> float:
        """The maximum time for which the track was published."""
        return (self.video_ended or self.left or self.gone) - (self.showing or self.video_on) if self.video_on else 0.0

    async def join(self, url: str, token: str) -> "Person":
        self._room = self.rtc.Room()
        self._room.on("disconnected", self._on_disconnected)
        self._listen()
        self.calling = time.time()
        await self._room.connect(url, token)
        self.connected = time.time()
        return self

    def _listen(self) -> None:
        """Register event handlers before connecting. Subclasses override this."""

    def _on_disconnected(self, *_: object) -> None:
        if not self.gone:
            self.gone = time.time()
        self._disconnected.set()

    async def publish(self, *, camera: bool, microphone: bool = True) -> None:
        """Publish tracks. Raises the SDK's ``PublishTrackError`` if LiveKit refuses."""
        rtc, me = self.rtc, self._room.local_participant
        if microphone:
            sound = rtc.AudioSource(_RATE, 1)
            track = rtc.LocalAudioTrack.create_audio_track("mic", sound)
            await me.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
            self._media.append(asyncio.create_task(self._speak(sound)))
        if camera:
            picture = rtc.VideoSource(_WIDTH, _HEIGHT)
            track = rtc.LocalVideoTrack.create_video_track("camera", picture)
            # LiveKit reports the track when media arrives: the frames must flow.
            self._media.append(asyncio.create_task(self._show(picture)))
            options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=False)
            self.showing = time.time()
            self._camera = await me.publish_track(track, options)
            self.video_on = time.time()

    async def camera_off(self) -> None:
        self.video_off = time.time()
        await self._room.local_participant.unpublish_track(self._camera.sid)
        self.video_ended = time.time()

    async def leave(self) -> None:
        self.gone = time.time()
        await self._stop_media()
        await self._room.disconnect()
        self.left = time.time()

    async def wait_until_removed(self, within_s: float) -> None:
        """Wait until LiveKit has disconnected this participant."""
        async with asyncio.timeout(within_s):
            await self._disconnected.wait()
        await self._stop_media()
        await self._room.disconnect()

    async def give_up(self) -> None:
        """Stop the reconnects of the SDK. ``gone`` does not change."""
        await self._stop_media()
        await self._room.disconnect()

    async def _stop_media(self) -> None:
        for task in self._media:
            task.cancel()
        await asyncio.gather(*self._media, return_exceptions=True)
        self._media.clear()

    async def _speak(self, source: Any) -> None:
        # Each frame costs a call of the SDK, so the frames are long. A full queue makes capture_frame wait.
        samples = _RATE // 10
        silence = self.rtc.AudioFrame(bytes(2 * samples), _RATE, 1, samples)
        while True:
            await source.capture_frame(silence)
            await asyncio.sleep(0.05)

    async def _show(self, source: Any) -> None:
        shade = 0
        while True:
            shade = (shade + 16) % 256
            pixels = bytearray([shade]) * (_WIDTH * _HEIGHT * 3 // 2)
            source.capture_frame(self.rtc.VideoFrame(_WIDTH, _HEIGHT, self.rtc.VideoBufferType.I420, pixels))
            await asyncio.sleep(0.2)


async def _main(url: str, token: str) -> None:
    person = await Person("").join(url, token)
    await person.publish(camera=True)
    print(f"{person.calling} {person.connected} {person.video_on}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
