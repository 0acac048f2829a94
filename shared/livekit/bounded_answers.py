"""Answers of LiveKit are read up to a limit: each by itself, and all that are under way in one process.

aiohttp reads an answer whole, whatever its size. ``BoundedAnswers.response_class`` makes its session stop at the limit. It sets
``ClientResponse._body``, which ``json`` and ``text`` of aiohttp 3.14 read from.
"""

from typing import Final

import aiohttp

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_BYTES_UNDER_WAY = 64 * 1024 * 1024
_PIECE: Final = 256 * 1024


class AnswerTooLarge(aiohttp.ClientPayloadError):
    """An answer passed the limit. Nothing of it is kept, and its connection is closed."""


class BoundedAnswers:
    """The limits of one session. ``under_way`` is how many bytes its unfinished answers hold now."""

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES, max_under_way: int = MAX_BYTES_UNDER_WAY) -> None:
        self.max_bytes = max_bytes
        self.max_under_way = max_under_way
        self.under_way = 0

    def response_class(self) -> type[aiohttp.ClientResponse]:
        limits = self

        class BoundedResponse(aiohttp.ClientResponse):
            async def read(self) -> bytes:
                return await limits.read(self)

        return BoundedResponse

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body of an answer, also for a second caller. Raises ``AnswerTooLarge``."""
        if response._body is not None:  # as aiohttp's own ``read`` keeps it, for ``text`` and ``json``
            return bytes(response._body)
        pieces: list[bytes] = []
        size = 0
        try:
            if response.content_length is not None and response.content_length > self.max_bytes:
                raise AnswerTooLarge(f"an answer of {response.content_length} bytes")
            async for piece in response.content.iter_chunked(_PIECE):
                size += len(piece)
                self.under_way += len(piece)
                if size > self.max_bytes or self.under_way > self.max_under_way:
                    raise AnswerTooLarge(f"an answer of more than {size - len(piece)} bytes")
                pieces.append(piece)
        except BaseException:
            response.close()
            raise
        finally:
            self.under_way -= size
        response._body = b"".join(pieces)
        return response._body
