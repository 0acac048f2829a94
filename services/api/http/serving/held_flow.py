"""Flow control of a connection that may also have to wait for its turn."""

import asyncio

from services.api.http.serving.uvicorn_internals import FlowControl


class HeldFlow(FlowControl):
    """Flow control with a second reason to stop reading: the connection waits for its turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_held = False

    def hold(self) -> None:
        """Stop reading until ``free`` is called."""
        self._is_held = True
        if not self.read_paused:
            self._transport.pause_reading()

    def free(self) -> None:
        """Resume reading, unless the application does not keep up with the body."""
        self._is_held = False
        if not self.read_paused:
            self._transport.resume_reading()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            if not self._is_held:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self._is_held:
                self._transport.resume_reading()
