"""The base class of Relay's errors, with the HTTP status and the stable code of their answers."""

from typing import ClassVar, NamedTuple

Headers = tuple[tuple[str, str], ...]
# Seconds that a client waits before it repeats a request that a store could not serve.
RETRY_AFTER_S = 2


class Code(NamedTuple):
    """A stable ``code`` of an answer. ``example`` and ``param`` are shown in the API reference."""

    name: str
    meaning: str
    example: str
    param: str | None = None


class RelayError(Exception):
    """Base of all of Relay's exceptions. ``str(error)`` may be shown to users and holds no secret.

    ``status`` and ``codes`` describe the API's answer. A class without codes never reaches a client: the API answers 500
    without details. The first code is the default. A code never changes its meaning and is never reused for another one.
    """

    status: ClassVar[int] = 500
    codes: ClassVar[tuple[Code, ...]] = ()

    def __init__(
        self, detail: str, *, code: str | None = None, param: str | None = None, headers: Headers = ()
    ) -> None:
        super().__init__(detail)
        self.code = code or (self.codes[0].name if self.codes else "internal_error")
        self.param, self.headers = param, headers
