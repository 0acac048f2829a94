"""Events that LiveKit signed and the meter could not use."""

from datetime import datetime

import msgspec


class SetAsideEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A set-aside event, with its ``body`` as LiveKit sent it.

    ``reason`` is snake_case and stable (docs/metering.md), ``detail`` a sentence.
    """

    id: int
    received_at: datetime
    reason: str
    detail: str
    body: bytes
