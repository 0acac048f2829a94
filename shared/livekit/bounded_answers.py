"""Limit the size of LiveKit's answers: of each one, and of all unfinished ones of a process together.

aiohttp reads an answer completely, whatever its size. ``BoundedAnswers.response_class`` gives its session a response class
that stops at the limit. The class keeps the body itself and overrides ``read``, ``text`` and ``json``, so it uses no private
part of aiohttp. tests/unit/test_bounded_answers.py fails if aiohttp adds another way to read a whole answer.
"""

from collections.abc import Callable
from typing import Any, Final

import aiohttp
import msgspec

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_BYTES_UNDER_WAY = 64 * 1024 * 1024
_PIECE: Final = 256 * 1024


class AnswerTooLarge(aiohttp.ClientPayloadError):
    """An answer exceeds the limit. It is discarded, and its connection is closed."""


class BoundedAnswers:
    """The limits of one session. ``under_way``: bytes that its unfinished answers hold now."""

    def __init__(self, max_bytes: int = MAX_ANSWER_BYTES, max_under_way: int = MAX_BYTES_UNDER_WAY) -> None:
        self.max_bytes = max_bytes
        self.max_under_way = max_under_way
        self.under_way = 0

    def response_class(self) -> type[aiohttp.ClientResponse]:
        """Return the class of responses that a ``ClientSession`` with these limits creates."""
        limits = self

        class BoundedResponse(aiohttp.ClientResponse):
            whole_body: bytes | None = None

            async def read(self) -> bytes:
                if self.whole_body is None:
                    self.whole_body = await limits.read(self)
                return self.whole_body

            async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
                return (await self.read()).decode(encoding or self.charset or "utf-8", errors)

            async def json(
                self,
                *,
                encoding: str | None = None,
                loads: Callable[[str], Any] = msgspec.json.decode,
                content_type: str | None = "application/json",
            ) -> Any:
                if content_type is not None and self.content_type != content_type:
                    raise aiohttp.ContentTypeError(
                        self.request_info, self.history, status=self.status, message="not JSON", headers=self.headers
                    )
                return loads(await self.text(encoding))

        return BoundedResponse

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the body of an answer. Raises ``AnswerTooLarge``."""
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
        return b"".join(pieces)
